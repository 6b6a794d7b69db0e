// y = (x − mean)·rstd·weight + bias, rstd = 1/√(variance + eps) per row. The variance is taken about the mean, not from the
// mean square, which would cancel. One block per row; it reads the row again from cache.

extern "C" __global__ void layer_norm(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, const WEIGHT_TYPE *bias, TYPE *y,
                                      i64 stride_y, float *mean, i64 stride_mean, float *rstd, i64 stride_rstd, u64 rows,
                                      u32 cols, float eps) {
  const Group group = group_of_row(rows, 1);
  if (!group.inside) return;
  x += group.row * stride_x;
  y += group.row * stride_y;
  float total = 0;
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH];
    load(v, x + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) total += v[i];
  }
  const float centre = group_sum(total) / cols;
  float squares = 0;
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH];
    load(v, x + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) squares += (v[i] - centre) * (v[i] - centre);
  }
  const float scale = 1.0f / sqrtf(group_sum(squares) / cols + eps);
  if (threadIdx.x == 0) {
    mean[group.row * stride_mean] = centre;
    rstd[group.row * stride_rstd] = scale;
  }
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH], gain[WIDTH], shift[WIDTH] = {};
    load(v, x + col);
    load(gain, weight + col);
    if (bias) load(shift, bias + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[i] = (v[i] - centre) * scale * gain[i] + shift[i];
    store(y + col, v);
  }
}
