// y = x · rstd · weight, rstd = 1/√(mean(x²) + eps) over each group of `cols` columns. The threads of one y take one group.
#include "norm.cuh"

extern "C" __global__ void BOUNDS rms_norm(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, TYPE *y, i64 stride_y, float *rstd,
                                    i64 stride_rstd, u32 groups, u32 groups_per_row, u32 cols, float eps) {
  const Group group = group_of_row(groups, groups_per_row);
  const u64 from = (u64)group.index * cols;
  Kept kept;
  keep(kept, x + group.row * stride_x + from, cols, group.inside);
  float squares = 0;
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    float v[WIDTH];
    kept[k].unpack(v);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) squares += v[i] * v[i];
  }
  const float scale = 1.0f / sqrtf(group_sum(squares) / cols + eps);
  if (threadIdx.x == 0 && group.inside) rstd[group.row * stride_rstd + group.index] = scale;
  y += group.row * stride_y + from;
  each_kept(cols, group.inside, [&](int k, u32 col) {
    float v[WIDTH], gain[WIDTH];
    kept[k].unpack(v);
    load(gain, weight + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[i] = v[i] * scale * gain[i];
    store(y + col, v);
  });
}
