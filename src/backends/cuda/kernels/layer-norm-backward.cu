// dx += rstd·(g − mean(g) − x̂·mean(g⊙x̂)), g = dy⊙weight, x̂ = (x − mean)·rstd per row. The threads of one y take one row.
#include "norm.cuh"

extern "C" __global__ void BOUNDS layer_norm_backward(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, const float *mean,
                                               i64 stride_mean, const float *rstd, i64 stride_rstd, const TYPE *dy,
                                               i64 stride_dy, TYPE *dx, i64 stride_dx, u32 rows, u32 cols) {
  const Group group = group_of_row(rows, 1);
  dx += group.row * stride_dx;
  Kept kept_x, kept_dy, kept_dx;
  keep(kept_x, x + group.row * stride_x, cols, group.inside);
  keep(kept_dy, dy + group.row * stride_dy, cols, group.inside);
  keep(kept_dx, dx, cols, group.inside);
  const float centre = group.inside ? mean[group.row * stride_mean] : 0;
  const float scale = group.inside ? rstd[group.row * stride_rstd] : 0;
  float sums[2] = {};
  each_kept(cols, group.inside, [&](int k, u32 col) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH];
    kept_x[k].unpack(v);
    kept_dy[k].unpack(upstream);
    load(gain, weight + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      const float g = __fmul_rn(upstream[i], gain[i]);
      sums[0] += g;
      sums[1] += g * (v[i] - centre) * scale;
    }
  });
  group_sums(sums);
  const float mean_g = sums[0] / cols, mean_pull = sums[1] / cols;
  each_kept(cols, group.inside, [&](int k, u32 col) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH], sum[WIDTH];
    kept_x[k].unpack(v);
    kept_dy[k].unpack(upstream);
    kept_dx[k].unpack(sum);
    load(gain, weight + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++)  // g is rounded as in its mean: what is equal must cancel
      sum[i] += scale * (__fmul_rn(upstream[i], gain[i]) - mean_g - (v[i] - centre) * scale * mean_pull);
    store(dx + col, sum);
  });
}
