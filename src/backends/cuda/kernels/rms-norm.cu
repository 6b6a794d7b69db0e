// y = x · rstd · weight, rstd = 1/√(mean(x²) + eps) over each group of `cols` columns. The threads of one y take one group;
// their second reading of it comes from cache.

extern "C" __global__ void rms_norm(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, TYPE *y, i64 stride_y, float *rstd,
                                    i64 stride_rstd, u64 groups, u32 groups_per_row, u32 cols, float eps) {
  const Group group = group_of_row(groups, groups_per_row);
  if (!group.inside) return;
  x += group.row * stride_x + (u64)group.index * cols;
  y += group.row * stride_y + (u64)group.index * cols;
  float squares = 0;
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH];
    load(v, x + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) squares += v[i] * v[i];
  }
  const float scale = 1.0f / sqrtf(group_sum(squares) / cols + eps);
  if (threadIdx.x == 0) rstd[group.row * stride_rstd + group.index] = scale;
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH], gain[WIDTH];
    load(v, x + col);
    load(gain, weight + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[i] = v[i] * scale * gain[i];
    store(y + col, v);
  }
}
