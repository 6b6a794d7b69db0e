// One error class, a closed table of codes. A user error says what is wrong, what was expected and what to do
// (`hint`); `exit` is the process exit code of the command line for that kind of error.

/** Every error code with its meaning and the exit code of the command line. */
export const ERROR_CODES = {
  USAGE: { exit: 2, meaning: "The command line cannot be understood." },
  CONFIG_INVALID: { exit: 2, meaning: "One or more settings have a wrong type, value or name; all are listed." },
  CONFIG_UNREADABLE: { exit: 2, meaning: "The config file is not valid YAML." },
  RANK_OUT_OF_RANGE: { exit: 2, meaning: "A rank is not a whole number from 1 to the adapter's largest rank." },
  PATH_UNSAFE: { exit: 2, meaning: "A file name inside an index or archive points outside its folder." },

  FILE_NOT_FOUND: { exit: 3, meaning: "A file or folder that was named does not exist." },
  FILE_UNREADABLE: { exit: 3, meaning: "A file exists but cannot be read." },
  FILE_EXISTS: { exit: 3, meaning: "The output already exists and would be overwritten." },
  WRITE_FAILED: { exit: 3, meaning: "A file could not be written (disk full, no permission); the old file is intact." },

  SAFETENSORS_INVALID: { exit: 4, meaning: "A safetensors file is truncated, or its header lies or is malformed." },
  GGUF_INVALID: { exit: 4, meaning: "A GGUF file is truncated, or its header lies or is malformed." },
  TENSOR_MISSING: { exit: 4, meaning: "A tensor that the model needs is not in the checkpoint." },
  TENSOR_SHAPE: { exit: 4, meaning: "A stored tensor has another shape than the config implies." },
  TENSOR_DTYPE: { exit: 4, meaning: "A stored tensor has a dtype that is not supported there." },
  TENSOR_NONFINITE: { exit: 4, meaning: "A stored weight is NaN or infinite." },
  MODEL_CONFIG_INVALID: { exit: 4, meaning: "config.json is missing, malformed or inconsistent." },
  MODEL_UNSUPPORTED: { exit: 4, meaning: "The model uses an architecture or feature that is not supported." },
  TOKENIZER_INVALID: { exit: 4, meaning: "tokenizer.json is missing, malformed or unsupported." },
  VOCABULARY_MISMATCH: { exit: 4, meaning: "The tokenizer yields ids that the model's embedding does not have." },
  TEMPLATE_MISSING: { exit: 4, meaning: "Chat data was given, but the model has no chat template." },
  TEMPLATE_FAILED: { exit: 4, meaning: "The chat template raised an error or gives text that cannot be masked." },
  QUANT_STATE_INVALID: { exit: 4, meaning: "A 4-bit tensor's stored quantisation state is missing or inconsistent." },

  DATA_EMPTY: { exit: 5, meaning: "The data holds no usable sample." },
  DATA_ROW_INVALID: { exit: 5, meaning: "A data row is broken; file, line and reason are given." },
  DATA_OVERLONG: { exit: 5, meaning: "Samples are longer than `seq`, and no policy for them was chosen." },
  DATA_UNSUPPORTED: { exit: 5, meaning: "The data file is of a kind that is not read." },

  ADAPTER_INVALID: { exit: 6, meaning: "An adapter folder is incomplete or malformed." },
  ADAPTER_BASE_MISMATCH: { exit: 6, meaning: "The adapter was trained on another base model." },
  RUN_LOCKED: { exit: 6, meaning: "Another live process uses this run folder." },
  RUN_EXISTS: { exit: 6, meaning: "The run folder already holds a run; resume it or choose another." },
  CHECKPOINT_INVALID: { exit: 6, meaning: "A checkpoint is missing, incomplete or corrupt." },
  RESUME_MISMATCH: { exit: 6, meaning: "The run to resume had another config, data, base or instruction set." },
  LOSS_NONFINITE: { exit: 6, meaning: "The loss or gradient was not finite in several steps in a row." },

  BACKEND_UNAVAILABLE: { exit: 7, meaning: "The backend that was asked for cannot be opened on this machine." },
  OP_UNSUPPORTED: { exit: 7, meaning: "The backend has no kernel for an op or a dtype that the model needs." },
  DEVICE_FAILED: { exit: 7, meaning: "The device reported an error while it was working; its results are lost." },
  MEMORY_EXCEEDED: { exit: 7, meaning: "The run needs more memory than the budget or the device has." },

  HUB_OFFLINE: { exit: 8, meaning: "The hub cannot be reached and the model is not in the local cache." },
  HUB_UNAUTHORIZED: { exit: 8, meaning: "The hub refused access: a token is missing, wrong, or has no access." },
  HUB_NOT_FOUND: { exit: 8, meaning: "The hub has no such repository, revision or file." },
  HUB_DOWNLOAD_FAILED: { exit: 8, meaning: "A download was truncated or does not match its stated size or hash." },

  OP_ARGUMENT: { exit: 70, meaning: "An op was called with arguments that break its contract (a bug in the caller)." },
  TENSOR_STALE: { exit: 70, meaning: "A tensor was used after its buffer was released (a bug in the caller)." },
  INTERRUPTED: { exit: 130, meaning: "The user stopped the command; a checkpoint was written where the text says so." },
} as const satisfies Record<string, { exit: number; meaning: string }>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface QdlErrorOptions {
  /** What the user can do about it, as a sentence. */
  readonly hint?: string;
  /** The facts of the message as data: path, line, key, expected, got … */
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** The only error that qdylora throws on purpose. `message` reads: what: argument is X, expected Y because Z. */
export class QdlError extends Error {
  override readonly name = "QdlError";
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: QdlErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
    this.details = options.details ?? {};
  }
}
