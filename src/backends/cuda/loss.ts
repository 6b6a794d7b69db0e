// linearCrossEntropy: logits of a chunk of rows by cuBLASLt in f32, loss and gradient in their place, dX of the chunk.

import type { LinearCrossEntropyArgs } from "../../ops/linear-cross-entropy.ts";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.ts";
import { rowSlice, type Tensor } from "../../tensor/tensor.ts";
import type { KernelTable } from "../backend.ts";
import type { CudaDevice, Step } from "./device.ts";
import { commonType, elementType, inOrder, prepared } from "./kernel.ts";
import { kernelArguments } from "./launch.ts";
import { bring, castTo, meetingDtype, NOTHING, product, roomAs } from "./products.ts";
import { Room, roomBytes } from "./room.ts";

/** Logits of one chunk: large enough for products at full speed, small beside the activations. */
const CHUNK_BYTES = 256 << 20;
/** Rows of a chunk are whole tiles of the products. */
const TILE_ROWS = 128;
const LOSS_THREADS = 512;
/** Logits of a row are read four at a time, gradients in bf16 eight. */
const ROW_UNIT = 8;

export function lossKernels(device: CudaDevice) {
  return {
    linearCrossEntropy: prepared(
      device,
      "linearCrossEntropy",
      (args, scratch) => linearCrossEntropy(device, args, new Room(scratch)),
      (args) => roomBytes((room) => planLoss(args, room)),
    ),
  } satisfies Partial<KernelTable>;
}

function planLoss({ x, weight, dx }: LinearCrossEntropyArgs, room: Room) {
  const dtype = meetingDtype(x, weight);
  const columns = Math.ceil(weight.rows / ROW_UNIT) * ROW_UNIT;
  const fitting = Math.floor(CHUNK_BYTES / (4 * columns) / TILE_ROWS) * TILE_ROWS;
  const chunk = Math.min(x.rows, Math.max(TILE_ROWS, fitting));
  return {
    dtype,
    chunk,
    logits: room.take("f32", chunk, weight.rows, columns),
    /** Both in the dtype of the products. */
    head: roomAs(room, weight, dtype),
    x: roomAs(room, x, dtype),
    /** dX of a chunk, where it is rounded from another dtype. */
    dx: dx && dx.dtype !== dtype ? room.take(dtype, chunk, x.cols) : null,
  };
}

function linearCrossEntropy(device: CudaDevice, args: LinearCrossEntropyArgs, room: Room): Step {
  const { x, weight, dx, loss, tokenWeights } = args;
  elementType(x);
  commonType("linearCrossEntropy", loss, tokenWeights);
  const plan = planLoss(args, room);
  const steps = [bring(device, weight, plan.head), bring(device, x, plan.x)];
  for (let from = 0; from < x.rows; from += plan.chunk) {
    const to = Math.min(x.rows, from + plan.chunk);
    const logits = rowSlice(plan.logits, 0, to - from);
    steps.push(
      product(device, { c: logits, a: rowSlice(plan.x, from, to), b: plan.head, transposeB: true }),
      softmax(device, args, logits, from, plan.dtype),
      dx ? gradient(device, logits, plan, rowSlice(dx, from, to)) : NOTHING,
    );
  }
  return inOrder(...steps);
}

function softmax(
  device: CudaDevice,
  args: LinearCrossEntropyArgs,
  logits: Tensor,
  from: number,
  dtype: "f32" | "bf16",
) {
  const part = (tensor: Tensor) => rowSlice(tensor, from, from + logits.rows);
  const [targets, tokenWeights, loss] = [part(args.targets), part(args.tokenWeights), part(args.loss)];
  const kernel = device.function("linear-cross-entropy.cu", "linear_cross_entropy", {
    TYPE: dtype === "bf16" ? "bf16" : "float",
    GRADIENT: args.dx ? 1 : 0,
    CAPPED: args.softCap === null ? 0 : 1,
  });
  const block = kernelArguments().tensors(logits).longs(logits.stride).integers(logits.cols);
  block.tensors(targets).longs(targets.stride).tensors(tokenWeights).longs(tokenWeights.stride);
  return device.launch(
    kernel,
    [logits.rows],
    LOSS_THREADS,
    block
      .tensors(loss)
      .longs(loss.stride)
      .floats(args.softCap ?? 0),
  );
}

/** dX of a chunk from the gradients that lie in its logits' place. */
function gradient(device: CudaDevice, logits: Tensor, plan: ReturnType<typeof planLoss>, dx: Tensor): Step {
  const stride = logits.stride * (BYTES_PER_ELEMENT.f32 / BYTES_PER_ELEMENT[plan.dtype]);
  const a: Tensor = { ...logits, dtype: plan.dtype, stride };
  const c = plan.dx ? rowSlice(plan.dx, 0, dx.rows) : dx;
  const whole = product(device, { c, a, b: plan.head });
  return plan.dx ? inOrder(whole, castTo(device, c, dx)) : whole;
}
