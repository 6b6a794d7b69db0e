// dx = dy⊙a'(x), a the activation of number ACTIVATION (prelude); in place over x or dy.

extern "C" __global__ void gelu_backward(const TYPE *x, i64 stride_x, const TYPE *dy, i64 stride_dy, TYPE *dx, i64 stride_dx,
                                         u32 rows, u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u64 col = (u64)at.pack * WIDTH;
  float z[WIDTH], upstream[WIDTH];
  load(z, x + at.row * stride_x + col);
  load(upstream, dy + at.row * stride_dy + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++)
    z[i] = activation_back<ACTIVATION>(upstream[i], z[i], activation_share<ACTIVATION>(z[i]));
  store(dx + at.row * stride_dx + col, z);
}
