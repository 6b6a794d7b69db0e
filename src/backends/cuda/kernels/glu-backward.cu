// dUp = dy⊙a(gate), dGate = dy⊙up⊙a'(gate), a the activation of number ACTIVATION (prelude); in place over gate, and over up
// or dy.

extern "C" __global__ void glu_backward(const TYPE *gate, i64 stride_gate, const TYPE *up, i64 stride_up, const TYPE *dy,
                                        i64 stride_dy, TYPE *d_gate, i64 stride_d_gate, TYPE *d_up, i64 stride_d_up, u32 rows,
                                        u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u64 col = (u64)at.pack * WIDTH;
  float z[WIDTH], factor[WIDTH], upstream[WIDTH];
  load(z, gate + at.row * stride_gate + col);
  load(factor, up + at.row * stride_up + col);
  load(upstream, dy + at.row * stride_dy + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    const float share = activation_share<ACTIVATION>(z[i]);
    const float to_gate = activation_back<ACTIVATION>(upstream[i] * factor[i], z[i], share);
    factor[i] = upstream[i] * z[i] * share;
    z[i] = to_gate;
  }
  store(d_gate + at.row * stride_d_gate + col, z);
  store(d_up + at.row * stride_d_up + col, factor);
}
