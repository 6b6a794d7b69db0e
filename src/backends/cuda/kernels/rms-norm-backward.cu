// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)) over each group of `cols` columns. The threads of one y take one group.
#include "norm.cuh"

extern "C" __global__ void BOUNDS rms_norm_backward(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, const float *rstd,
                                             i64 stride_rstd, const TYPE *dy, i64 stride_dy, TYPE *dx, i64 stride_dx,
                                             u32 groups, u32 groups_per_row, u32 cols) {
  const Group group = group_of_row(groups, groups_per_row);
  const u64 from = (u64)group.index * cols;
  dx += group.row * stride_dx + from;
  Kept kept_x, kept_dy, kept_dx;
  keep(kept_x, x + group.row * stride_x + from, cols, group.inside);
  keep(kept_dy, dy + group.row * stride_dy + from, cols, group.inside);
  keep(kept_dx, dx, cols, group.inside);
  const float scale = group.inside ? rstd[group.row * stride_rstd + group.index] : 0;
  float products = 0;
  each_kept(cols, group.inside, [&](int k, u32 col) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH];
    kept_x[k].unpack(v);
    kept_dy[k].unpack(upstream);
    load(gain, weight + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) products += upstream[i] * gain[i] * v[i];
  });
  const float factor = scale * scale * (group_sum(products) / cols);
  each_kept(cols, group.inside, [&](int k, u32 col) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH], sum[WIDTH];
    kept_x[k].unpack(v);
    kept_dy[k].unpack(upstream);
    kept_dx[k].unpack(sum);
    load(gain, weight + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] += scale * (upstream[i] * gain[i] - v[i] * factor);
    store(dx + col, sum);
  });
}
