// What products could reach at most on this GPU: a large one by cuBLASLt, on random values, under sustained load. Zeros, or a
// burst after a pause, would read 10 to 15 % higher: cards are bound by their power.

import type { CudaBuffer } from "./buffer.ts";
import type { ProductDtype, ProductShape } from "./cublaslt.ts";
import type { CudaDevice } from "./device.ts";

const SIDE = 8192;
const HEATING_SECONDS = 0.5;
const MEASURED_SECONDS = 0.5;
/** Random bytes, repeated. */
const PATTERN_BYTES = 1 << 20;

/** FLOP/s of C = A·Bᵀ of 8192³. */
export function sustainedProduct(device: CudaDevice, dtype: ProductDtype, memory: PeakMemory): number {
  const bytes = SIDE * SIDE * (dtype === "bf16" ? 2 : 4);
  const operand = () => memory.alloc(bytes, "operand of the peak");
  const [a, b, c] = [operand(), operand(), operand()];
  try {
    for (const buffer of [a, b]) fillWithNoise(dtype, bytes, (at, values) => memory.write(buffer, at, values));
    const shape: ProductShape = {
      ...{ m: SIDE, n: SIDE, k: SIDE, transposeB: true },
      ...{ strideA: SIDE, strideB: SIDE, strideC: SIDE, inputs: dtype, output: dtype },
    };
    const operands = { a: a.address, b: b.address, c: c.address, alpha: 1, beta: 0 };
    const product = device.products.prepare(shape, operands);
    runFor(device, product, HEATING_SECONDS);
    return (2 * SIDE ** 3) / runFor(device, product, MEASURED_SECONDS);
  } finally {
    for (const buffer of [a, b, c]) buffer.dispose();
  }
}

/** The backend that owns the device. */
export interface PeakMemory {
  alloc(bytes: number, label: string): CudaBuffer;
  write(buffer: CudaBuffer, offset: number, bytes: Uint8Array): void;
}

/** Seconds of one call. */
function runFor(device: CudaDevice, product: () => void, seconds: number): number {
  product();
  device.synchronize();
  const began = performance.now();
  let calls = 0;
  do {
    for (let i = 0; i < 8; i++) product();
    calls += 8;
    device.synchronize();
  } while (performance.now() - began < 1000 * seconds);
  return (performance.now() - began) / 1000 / calls;
}

/** Values spread evenly over −1..1, drawn by a linear congruential generator: only their bits' variety matters. */
function fillWithNoise(dtype: ProductDtype, bytes: number, put: (at: number, values: Uint8Array) => void): void {
  let state = 1;
  const value = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
  const floats = Float32Array.from({ length: PATTERN_BYTES / (dtype === "bf16" ? 2 : 4) }, value);
  const words = new Uint32Array(floats.buffer);
  const pattern = dtype === "bf16" ? Uint16Array.from(words, (word) => word >>> 16) : floats;
  const raw = new Uint8Array(pattern.buffer);
  for (let at = 0; at < bytes; at += raw.length) put(at, raw.subarray(0, Math.min(raw.length, bytes - at)));
}
