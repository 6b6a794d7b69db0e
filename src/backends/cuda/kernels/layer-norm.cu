// y = (x − mean)·rstd·weight + bias, rstd = 1/√(variance + eps) per row. The variance is taken about the mean, not from the
// mean square, which would cancel. The threads of one y take one row.
#include "norm.cuh"

extern "C" __global__ void BOUNDS layer_norm(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, const WEIGHT_TYPE *bias, TYPE *y,
                                      i64 stride_y, float *mean, i64 stride_mean, float *rstd, i64 stride_rstd, u32 rows,
                                      u32 cols, float eps) {
  const Group group = group_of_row(rows, 1);
  Kept kept;
  keep(kept, x + group.row * stride_x, cols, group.inside);
  float total = 0, squares = 0;
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    float v[WIDTH];
    kept[k].unpack(v);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) total += v[i];
  }
  const float centre = group_sum(total) / cols;
  each_kept(cols, group.inside, [&](int k, u32) {
    float v[WIDTH];
    kept[k].unpack(v);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) squares += (v[i] - centre) * (v[i] - centre);
  });
  const float scale = 1.0f / sqrtf(group_sum(squares) / cols + eps);
  if (threadIdx.x == 0 && group.inside) {
    mean[group.row * stride_mean] = centre;
    rstd[group.row * stride_rstd] = scale;
  }
  y += group.row * stride_y;
  each_kept(cols, group.inside, [&](int k, u32 col) {
    float v[WIDTH], gain[WIDTH], shift[WIDTH] = {};
    kept[k].unpack(v);
    load(gain, weight + col);
    if (bias) load(shift, bias + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[i] = (v[i] - centre) * scale * gain[i] + shift[i];
    store(y + col, v);
  });
}
