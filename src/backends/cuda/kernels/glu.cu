// y = a(gate)⊙up, a the activation of number ACTIVATION (prelude).

extern "C" __global__ void glu(const TYPE *gate, i64 stride_gate, const TYPE *up, i64 stride_up, TYPE *y, i64 stride_y, u32 rows,
                               u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u64 col = (u64)at.pack * WIDTH;
  float z[WIDTH], factor[WIDTH];
  load(z, gate + at.row * stride_gate + col);
  load(factor, up + at.row * stride_up + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) z[i] = z[i] * activation_share<ACTIVATION>(z[i]) * factor[i];
  store(y + at.row * stride_y + col, z);
}
