// How products choose their algorithms on the GPU of this machine.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CudaBackend, openCuda } from "../../src/backends/cuda/cuda.ts";
import { product } from "../../src/backends/cuda/products.ts";
import { toBf16 } from "../../src/tensor/dtype.ts";
import { colSlice, matrix, rowSlice, type Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../ops/sampling.ts";

const SIZE = 1280;

interface Operands {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly c: Tensor;
}

function operands(backend: CudaBackend): Operands {
  const tensor = (name: string): Tensor => {
    const buffer = backend.alloc(2 * SIZE * SIZE, name);
    const values = Float32Array.from({ length: SIZE * SIZE }, normals(name));
    backend.write(buffer, 0, new Uint8Array(Uint16Array.from(values, toBf16).buffer));
    return matrix(buffer, "bf16", SIZE, SIZE);
  };
  return { a: tensor("a"), b: tensor("b"), c: tensor("c") };
}

/** a·b over the first `depth` columns of a. */
async function multiplied(backend: CudaBackend, { a, b, c }: Operands, depth: number): Promise<Uint8Array> {
  product(backend.device, { c, a: colSlice(a, 0, depth), b: rowSlice(b, 0, depth) })();
  return backend.read(c.buffer as never, 0, c.buffer.bytes);
}

describe("algorithms of products", () => {
  let backend: CudaBackend;
  let held: Operands;
  beforeAll(async () => {
    backend = await openCuda();
    held = operands(backend);
  });
  afterAll(async () => {
    for (const { buffer } of Object.values(held)) buffer.dispose();
    await backend[Symbol.asyncDispose]();
  });

  test("are timed once for all depths of a kind, and again for another kind", async () => {
    const { tuning } = backend.device.products;
    await multiplied(backend, held, 1160);
    const first = tuning.save();
    await multiplied(backend, held, 1168);
    expect(tuning.save()).toBe(first);
    await multiplied(backend, held, 1024);
    expect(tuning.save()).not.toBe(first);
  });

  test("come from a saved choice, and then give the same bits", async () => {
    const bits = [await multiplied(backend, held, 1160), await multiplied(backend, held, 1168)];
    await using other = await openCuda();
    other.device.products.tuning.load(backend.device.products.tuning.save());
    const again = operands(other);
    expect(await multiplied(other, again, 1168)).toEqual(bits[1]);
    expect(await multiplied(other, again, 1160)).toEqual(bits[0]);
    expect(other.device.products.tuning.save()).toBe(backend.device.products.tuning.save());
    for (const { buffer } of Object.values(again)) buffer.dispose();
  });

  test("are not timed where runs must agree without a shared choice", async () => {
    await using deterministic = await openCuda({ deterministic: true });
    const own = operands(deterministic);
    const before = deterministic.device.products.tuning.save();
    await multiplied(deterministic, own, 1160);
    expect(deterministic.device.products.tuning.save()).toBe(before);
    for (const { buffer } of Object.values(own)) buffer.dispose();
  });
});
