/** Storage dtypes. `f64` exists on the reference backend only (gradient checks need its precision). */
export type DType = "f64" | "f32" | "bf16" | "i32" | "u8";

export const BYTES_PER_ELEMENT: Readonly<Record<DType, number>> = { f64: 8, f32: 4, bf16: 2, i32: 4, u8: 1 };

const scratch = new DataView(new ArrayBuffer(4));

/** float → bf16 bits, round to nearest even; NaN stays NaN (quiet). */
export function toBf16(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** bf16 bits → float, exact. */
export function fromBf16(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}
