// y = value, given as the bits of one element. TYPE: an unsigned integer of the element's size.

extern "C" __global__ void fill(TYPE *y, i64 stride, u32 rows, u32 packs, u32 bits) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  Pack<TYPE, WIDTH> pack;
#pragma unroll
  for (int i = 0; i < WIDTH; i++) pack.at[i] = (TYPE)bits;
  *reinterpret_cast<Pack<TYPE, WIDTH> *>(y + at.row * stride + (u64)at.pack * WIDTH) = pack;
}
