// Ways to spoil one tensor of a correct call, for every op alike: each must be refused before any kernel runs.

import type { ErrorCode } from "../../src/errors.ts";
import { mapTensors, type Op, type OpArgs, type TensorSpec, tensorsOf } from "../../src/ops/op.ts";
import { BYTES_PER_ELEMENT, type DType } from "../../src/tensor/dtype.ts";
import { HostBuffer } from "../../src/tensor/host.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

export interface BrokenCall {
  readonly what: string;
  readonly code: ErrorCode;
  spoil(args: OpArgs): OpArgs;
}

const DTYPES: readonly DType[] = ["f64", "f32", "bf16", "i32", "u8"];

/** The ways that apply to this call. `host` is a correct sample. */
export function* brokenCalls(op: Op<OpArgs>, host: OpArgs): Generator<BrokenCall> {
  const specs = op.signature as Readonly<Record<string, TensorSpec | undefined>>;
  for (const { name, key, tensor } of tensorsOf(host)) {
    const spec = specs[key];
    const at = (what: string, change: (tensor: Tensor) => Tensor, code: ErrorCode = "OP_ARGUMENT"): BrokenCall => ({
      what: `${name} ${what}`,
      code,
      spoil: (args) => mapTensors(args, (t, n) => (n === name ? change(t) : t)),
    });
    const size = BYTES_PER_ELEMENT[tensor.dtype];
    yield at("past the end of its buffer", (t) => ({ ...t, offset: t.buffer.bytes }));
    yield at("before its buffer", (t) => ({ ...t, offset: -size }));
    if (size > 1) yield at("between elements", (t) => ({ ...t, offset: t.offset + 1 }));
    if (tensor.cols > 1) yield at("with rows that overlap", (t) => ({ ...t, stride: t.cols - 1 }));
    yield at("in memory of nobody", (t) => ({ ...t, buffer: new HostBuffer(t.buffer.bytes, "foreign") }));
    yield at("after its buffer was released", released, "TENSOR_STALE");
    if (!spec) continue;
    const wrong = DTYPES.find((dtype) => !spec.dtypes.includes(dtype) && BYTES_PER_ELEMENT[dtype] <= size);
    if (wrong) yield at(`as ${wrong}`, (t) => ({ ...t, dtype: wrong }));
    if (!spec.optional) yield at("null", () => null as unknown as Tensor);
    if (spec.access !== "in") yield* aliases(name, tensor, spec, host);
  }
}

function released(tensor: Tensor): Tensor {
  tensor.buffer.dispose();
  return tensor;
}

/** The output laid over each input of its shape: the same view where that is not allowed, a shifted one where it is. */
function* aliases(name: string, output: Tensor, spec: TensorSpec, host: OpArgs): Generator<BrokenCall> {
  for (const { name: other, key, tensor } of tensorsOf(host)) {
    const sameShape = tensor.rows === output.rows && tensor.cols === output.cols && tensor.dtype === output.dtype;
    if (other === name || !sameShape) continue;
    const allowed = spec.mayAlias?.includes(key) ?? false;
    const shift = allowed ? BYTES_PER_ELEMENT[tensor.dtype] : 0;
    // Shifted by one element it would still end inside the guard bytes, so only the overlap can be refused.
    if (allowed && tensor.rows * tensor.cols < 2) continue;
    yield {
      what: `${name} over ${other}${allowed ? ", one element further" : ""}`,
      code: "OP_ARGUMENT",
      spoil: (args) => {
        const under = tensorsOf(args).find((found) => found.name === other)!.tensor;
        return mapTensors(args, (t, n) => (n === name ? { ...under, offset: under.offset + shift } : t));
      },
    };
  }
}
