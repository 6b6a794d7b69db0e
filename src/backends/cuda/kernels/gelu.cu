// y = a(x), a the activation of number ACTIVATION (prelude).

extern "C" __global__ void gelu(const TYPE *x, i64 stride_x, TYPE *y, i64 stride_y, u32 rows, u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u64 col = (u64)at.pack * WIDTH;
  float z[WIDTH];
  load(z, x + at.row * stride_x + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) z[i] *= activation_share<ACTIVATION>(z[i]);
  store(y + at.row * stride_y + col, z);
}
