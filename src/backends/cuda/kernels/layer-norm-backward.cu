// dx += rstd·(g − mean(g) − x̂·mean(g⊙x̂)), g = dy⊙weight, x̂ = (x − mean)·rstd per row. The threads of one y take one row;
// their second reading of it comes from cache.

extern "C" __global__ void layer_norm_backward(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, const float *mean,
                                               i64 stride_mean, const float *rstd, i64 stride_rstd, const TYPE *dy,
                                               i64 stride_dy, TYPE *dx, i64 stride_dx, u64 rows, u32 cols) {
  const Group group = group_of_row(rows, 1);
  if (!group.inside) return;
  x += group.row * stride_x;
  dy += group.row * stride_dy;
  dx += group.row * stride_dx;
  const float centre = mean[group.row * stride_mean], scale = rstd[group.row * stride_rstd];
  float total = 0, pull = 0;
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH];
    load(v, x + col);
    load(gain, weight + col);
    load(upstream, dy + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      const float g = __fmul_rn(upstream[i], gain[i]);
      total += g;
      pull += g * (v[i] - centre) * scale;
    }
  }
  const float mean_g = group_sum(total) / cols, mean_pull = group_sum(pull) / cols;
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH], sum[WIDTH];
    load(v, x + col);
    load(gain, weight + col);
    load(upstream, dy + col);
    load(sum, dx + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++)  // g is rounded as in its mean: what is equal must cancel
      sum[i] += scale * (__fmul_rn(upstream[i], gain[i]) - mean_g - (v[i] - centre) * scale * mean_pull);
    store(dx + col, sum);
  }
}
