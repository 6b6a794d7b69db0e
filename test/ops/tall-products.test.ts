// How the CPU backend cuts a product into panels, stages and blocks of rows is nobody's business: a row has the same bits
// alone among few rows on one thread as in a tall product on several. (That few rows are right is the conformance suite's.)

import { describe, expect, it } from "vitest";
import { availableIsas, type CpuBackend, openCpu } from "../../src/backends/cpu/cpu.ts";
import { randomStream } from "../../src/random/philox.ts";
import { BYTES_PER_ELEMENT, toBf16 } from "../../src/tensor/dtype.ts";
import { matrix, type Tensor } from "../../src/tensor/tensor.ts";

interface Shape {
  readonly rows: number;
  readonly depth: number;
  readonly cols: number;
}

/** Rows that are computed alone: more than those that go by dot products, fewer than one block. */
const SLICE = 100;

const SHAPES: readonly [string, Shape][] = [
  ["more rows than a block, panels for all threads and some to share", { rows: 1300, depth: 70, cols: 650 }],
  ["more depth than a stage, more rows than a block", { rows: 1100, depth: 2500, cols: 72 }],
  ["the same number of panels for each thread", { rows: 300, depth: 64, cols: 128 }],
];

/** x and W, as bytes. */
interface Operands {
  readonly dtype: "f32" | "bf16";
  readonly shape: Shape;
  readonly x: Uint8Array;
  readonly weight: Uint8Array;
}

for (const [name, shape] of SHAPES)
  describe(`tall products: ${name}`, async () => {
    const isas = await availableIsas();
    for (const dtype of ["f32", "bf16"] as const) {
      const operands = {
        dtype,
        shape,
        x: randomBytes("x", dtype, shape.rows, shape),
        weight: randomBytes("w", dtype, shape.cols, shape),
      };
      for (const isa of isas)
        it(`${isa} (${dtype})`, async () => {
          await using one = await openCpu({ isa, threads: 1 });
          const alone: Uint8Array[] = [];
          for (let from = 0; from < shape.rows; from += SLICE)
            alone.push(await product(one, operands, from, Math.min(shape.rows, from + SLICE)));
          const expected = Buffer.concat(alone);
          for (const threads of [1, 2, 3]) {
            await using backend = await openCpu({ isa, threads });
            const whole = await product(backend, operands, 0, shape.rows);
            expect(expected.equals(whole), `${threads} threads`).toBe(true);
          }
        });
    }
  });

function randomBytes(name: string, dtype: "f32" | "bf16", rows: number, { depth }: Shape): Uint8Array {
  const stream = randomStream(1, name);
  const values = Float32Array.from({ length: rows * depth }, (_, i) => stream.uniform(i) - 0.5);
  return new Uint8Array(dtype === "f32" ? values.buffer : Uint16Array.from(values, toBf16).buffer);
}

/** Rows from..to−1 of x·Wᵀ. */
async function product(
  backend: CpuBackend,
  { dtype, shape, x, weight }: Operands,
  from: number,
  to: number,
): Promise<Uint8Array> {
  const { depth, cols } = shape;
  const tensors: Tensor[] = [];
  const tensor = (type: "f32" | "bf16", rows: number, width: number, bytes?: Uint8Array): Tensor => {
    const buffer = backend.alloc(rows * width * BYTES_PER_ELEMENT[type], "tall");
    if (bytes) backend.write(buffer, 0, bytes);
    tensors.push(matrix(buffer, type, rows, width));
    return tensors.at(-1)!;
  };
  try {
    const row = depth * BYTES_PER_ELEMENT[dtype];
    const y = tensor("f32", to - from, cols);
    backend.run("matmul", {
      x: tensor(dtype, to - from, depth, x.subarray(from * row, to * row)),
      weight: tensor(dtype, cols, depth, weight),
      y,
    });
    return await backend.read(y.buffer as never, 0, (to - from) * cols * 4);
  } finally {
    for (const { buffer } of tensors) buffer.dispose();
  }
}
