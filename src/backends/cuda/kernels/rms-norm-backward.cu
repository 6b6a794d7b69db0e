// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)) over each group of `cols` columns. The threads of one y take one group; their
// second reading of it comes from cache.

extern "C" __global__ void rms_norm_backward(const TYPE *x, i64 stride_x, const WEIGHT_TYPE *weight, const float *rstd,
                                             i64 stride_rstd, const TYPE *dy, i64 stride_dy, TYPE *dx, i64 stride_dx,
                                             u64 groups, u32 groups_per_row, u32 cols) {
  const Group group = group_of_row(groups, groups_per_row);
  if (!group.inside) return;
  const u64 from = (u64)group.index * cols;
  x += group.row * stride_x + from;
  dy += group.row * stride_dy + from;
  dx += group.row * stride_dx + from;
  const float scale = rstd[group.row * stride_rstd + group.index];
  float products = 0;
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH];
    load(v, x + col);
    load(gain, weight + col);
    load(upstream, dy + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) products += upstream[i] * gain[i] * v[i];
  }
  const float factor = scale * scale * (group_sum(products) / cols);
  for (u32 col = threadIdx.x * WIDTH; col < cols; col += blockDim.x * WIDTH) {
    float v[WIDTH], gain[WIDTH], upstream[WIDTH], sum[WIDTH];
    load(v, x + col);
    load(gain, weight + col);
    load(upstream, dy + col);
    load(sum, dx + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] += scale * (upstream[i] * gain[i] - v[i] * factor);
    store(dx + col, sum);
  }
}
