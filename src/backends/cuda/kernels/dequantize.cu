// y = book[code]·absmax, rounded to TYPE. A thread takes four groups of WIDTH weights that lie a block of threads apart, so that
// neighbours read and write neighbouring memory; all its loads are under way before the first store. Not WHOLE: y is some
// columns of W, from group `first_group` of each row on.
#include "four-bit.cuh"

constexpr int GROUPS = 4;

extern "C" __global__ void __launch_bounds__(256) dequantize(const __grid_constant__ FourBit weight, TYPE *y, i64 stride, u32 rows,
                                                             u32 groups_per_row
#if !WHOLE
                                                             ,
                                                             u32 first_group, u32 groups_per_weight_row
#endif
) {
  let_next_kernel_start();
  __shared__ float book[16];  // 16 words in 16 banks: no conflicts
  if (threadIdx.x < 16) book[threadIdx.x] = weight.book[threadIdx.x];
  __syncthreads();
  const u32 total = rows * groups_per_row, first = blockIdx.x * (blockDim.x * GROUPS) + threadIdx.x;
  u32 codes[GROUPS];
  StoredScale<DOUBLE> scale[GROUPS];
#pragma unroll
  for (int i = 0; i < GROUPS; i++) {
    u32 group = first + i * blockDim.x;
    if (group >= total) continue;
#if !WHOLE
    const u32 row = group / groups_per_row;
    group += row * (groups_per_weight_row - groups_per_row) + first_group;
#endif
    codes[i] = WIDTH == 8 ? reinterpret_cast<const u32 *>(weight.codes)[group] : weight.codes[group / 2] >> (group % 2 ? 0 : 4);
    scale[i].read(weight, group / (64 / WIDTH));
  }
  wait_for_kernels_before();
#pragma unroll
  for (int i = 0; i < GROUPS; i++) {
    const u32 group = first + i * blockDim.x;
    if (group >= total) continue;
    const u32 row = group / groups_per_row, column = (group - row * groups_per_row) * WIDTH;
    const float absmax = scale[i].value(weight.map, weight.offset);
    float v[WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; j++) v[j] = __fmul_rn(book[codes[i] >> (WIDTH == 8 ? 8 * (j / 2) + (j % 2 ? 0 : 4) : 0) & 15], absmax);
    store(y + row * stride + column, v);
  }
}
