// Everything a run needs to go on as if it had never stopped: weights, moments, per-row counters and the step. The order
// of data, ranks and initial values are functions of seed and step, so there is no generator state to keep. One
// safetensors file, written atomically.

import type { Adapter } from "../adapter/parameters.ts";
import { QdlError } from "../errors.ts";
import type { Folder } from "../formats/folder.ts";
import {
  bytesOf,
  encodeSafetensors,
  openSafetensors,
  type SafetensorsFile,
  type TensorToWrite,
} from "../formats/safetensors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Fingerprint, refuseOther } from "./fingerprint.ts";
import type { RowWindowedAdamW } from "./optimizer.ts";

const PATTERN = /^checkpoint-(\d{8})\.safetensors$/;
const ROW_STEPS = "row_steps";

export interface CheckpointState {
  /** Optimizer steps done. */
  readonly step: number;
  /** Steps in a row that were not applied because something was not finite. */
  readonly nonFinite: number;
  /** Length of the event log when the checkpoint was taken. */
  readonly logBytes: number;
  readonly fingerprint: Fingerprint;
}

export function checkpointName(step: number): string {
  return `checkpoint-${String(step).padStart(8, "0")}.safetensors`;
}

/** Names of the checkpoints in a folder, oldest first. */
export async function listCheckpoints(folder: Folder): Promise<string[]> {
  return (await folder.list()).filter((name) => PATTERN.test(name)).sort();
}

/** Writes a checkpoint, then removes all but the newest `keep`. Returns its name and size. */
export async function writeCheckpoint(
  folder: Folder,
  adapter: Adapter,
  optimizer: RowWindowedAdamW,
  state: CheckpointState,
  keep: number,
): Promise<{ file: string; bytes: number }> {
  const file = checkpointName(state.step);
  let bytes = 0;
  const counted = async function* () {
    for await (const chunk of encodeSafetensors(snapshot(adapter, optimizer), {
      qdylora: JSON.stringify(state),
    })) {
      bytes += chunk.length;
      yield chunk;
    }
  };
  await folder.write(file, counted());
  await pruneCheckpoints(folder, keep);
  return { file, bytes };
}

/** Removes all but the newest `keep` checkpoints (at least one stays). */
export async function pruneCheckpoints(folder: Folder, keep: number): Promise<void> {
  const all = await listCheckpoints(folder);
  for (const old of all.slice(0, Math.max(0, all.length - Math.max(1, keep)))) await folder.remove(old);
}

/**
 * Restores the newest checkpoint into `adapter` and `optimizer`; null if there is none.
 * Throws RESUME_MISMATCH with the differing keys unless `allowChanged`, CHECKPOINT_INVALID if the file does not fit.
 */
export async function restoreCheckpoint(
  folder: Folder,
  adapter: Adapter,
  optimizer: RowWindowedAdamW,
  fingerprint: Fingerprint,
  allowChanged: boolean,
): Promise<CheckpointState | null> {
  const file = (await listCheckpoints(folder)).at(-1);
  if (!file) return null;
  const stored = await openSafetensors(await folder.open(file));
  try {
    const state = readState(stored, `${folder.path}/${file}`);
    if (!allowChanged) refuseOther(state.fingerprint, fingerprint, folder.path);
    for (const tensor of adapter.tensors) {
      const { name, master, training } = tensor;
      const shape = [master.rows, master.cols];
      adapter.setWeights(tensor, await readFloats(stored, name, shape));
      for (const [key, moment] of Object.entries(training!.moments.tensors)) {
        const bytes = await readBytes(stored, `${name}.${key}`, storedDtype(moment), [moment.rows, moment.cols]);
        adapter.uploadBytes(moment, bytes);
      }
    }
    const rowSteps = await readBytes(stored, ROW_STEPS, "I32", [adapter.rankMax]);
    optimizer.restore(new Int32Array(rowSteps.slice().buffer));
    return state;
  } finally {
    await stored.close();
  }
}

/** Nothing is trained while it is written: tensors are read from the device one by one, and never all held on the host. */
function snapshot(adapter: Adapter, optimizer: RowWindowedAdamW): TensorToWrite[] {
  const tensors: TensorToWrite[] = [];
  for (const { name, master, training } of adapter.tensors) {
    const moments = Object.entries(training!.moments.tensors).map(
      ([key, moment]) => [`${name}.${key}`, moment] as const,
    );
    for (const [key, tensor] of [[name, master] as const, ...moments]) {
      const content = async function* () {
        yield await adapter.downloadBytes(tensor);
      };
      tensors.push({ name: key, dtype: storedDtype(tensor), shape: [tensor.rows, tensor.cols], content });
    }
  }
  const rowSteps = optimizer.rowSteps;
  tensors.push({ name: ROW_STEPS, dtype: "I32", shape: [rowSteps.length], content: bytesOf(rowSteps) });
  return tensors;
}

const storedDtype = ({ dtype }: Tensor): "F32" | "U8" => (dtype === "u8" ? "U8" : "F32");

function readState(stored: SafetensorsFile, path: string): CheckpointState {
  try {
    const state = JSON.parse(stored.metadata.qdylora ?? "") as CheckpointState;
    if (Number.isInteger(state.step) && Number.isInteger(state.logBytes) && typeof state.fingerprint === "object")
      return state;
  } catch {
    // Falls through: said below in the user's terms.
  }
  throw invalid(path, "it has no state of a qdylora run");
}

async function readFloats(stored: SafetensorsFile, name: string, shape: readonly number[]): Promise<Float32Array> {
  return new Float32Array((await readBytes(stored, name, "F32", shape)).slice().buffer);
}

async function readBytes(
  stored: SafetensorsFile,
  name: string,
  dtype: string,
  shape: readonly number[],
): Promise<Uint8Array> {
  if (!stored.has(name)) throw invalid(name, "it is missing");
  const tensor = stored.tensor(name);
  if (tensor.dtype !== dtype || tensor.shape.join() !== shape.join())
    throw invalid(
      tensor.file,
      `${name} is ${tensor.dtype} [${tensor.shape.join(", ")}], expected ${dtype} [${shape.join(", ")}]`,
    );
  return tensor.read();
}

function invalid(path: string, what: string): QdlError {
  return new QdlError("CHECKPOINT_INVALID", `checkpoint ${path} cannot be resumed: ${what}`, {
    hint: "Remove this file to resume from the checkpoint before it, or start a new run in another folder.",
    details: { path },
  });
}
