// cosSin[n] = magnitude·[cos(p·f), sin(p·f)]: the angle is one f32 product of the position and the frequency.

extern "C" __global__ void rope_table(const int *positions, i64 stride_positions, const float *frequencies, float *cos_sin,
                                      i64 stride, u32 rows, u32 half_dim, float magnitude) {
  const Place at = place(rows, half_dim);
  if (!at.inside) return;
  const float angle = __fmul_rn((float)positions[at.row * stride_positions], frequencies[at.pack]);
  float *out = cos_sin + at.row * stride + at.pack;
  out[0] = magnitude * cosf(angle);
  out[half_dim] = magnitude * sinf(angle);
}
