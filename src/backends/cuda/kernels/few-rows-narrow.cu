// t = s·x·Aᵀ for at most 8 rows of x, each at a rank and scale of its own: a block for each row of each A.

constexpr int MOST_ROWS = 8, WARPS = 16;

struct Adapters {
  const ADAPTER_TYPE *a[4];
  i64 stride_a[4];
  bf16 *t[4];
  i64 stride_t[4];
};

struct Ranks {
  u32 rank[MOST_ROWS];
  float scale[MOST_ROWS];
};

extern "C" __global__ void __launch_bounds__(32 * WARPS) few_rows_narrow(const bf16 *x, i64 stride_x, u32 rows, u32 cols, float *all,
                                                                  u32 stride_all, u32 padded,
                                                                  const __grid_constant__ Adapters adapters,
                                                                  const __grid_constant__ Ranks ranks) {
  __shared__ float parts[WARPS][MOST_ROWS];
  const u32 j = blockIdx.x;
  const ADAPTER_TYPE *a = adapters.a[blockIdx.y] + j * adapters.stride_a[blockIdx.y];
  u32 column = threadIdx.x * 8;
  float left[8], sum[MOST_ROWS] = {};
  if (column < cols) load(left, a + column);
  // In this order: the next kernel reads x before it waits.
  wait_for_kernels_before();
  let_next_kernel_start();
  while (column < cols) {
#pragma unroll
    for (int n = 0; n < MOST_ROWS; n++) {
      if (n >= rows) continue;
      float right[8];
      load(right, x + n * stride_x + column);
#pragma unroll
      for (int i = 0; i < 8; i++) sum[n] += left[i] * right[i];
    }
    column += blockDim.x * 8;
    if (column < cols) load(left, a + column);
  }
#pragma unroll
  for (int n = 0; n < MOST_ROWS; n++) {
    const float part = warp_sum(sum[n]);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][n] = part;
  }
  __syncthreads();
  const u32 n = threadIdx.x;
  if (n >= rows) return;
  float total = 0;
#pragma unroll
  for (int i = 0; i < WARPS; i++) total += parts[i][n];
  const bool wanted = j < ranks.rank[n];
  const bf16 value = from_float<bf16>(wanted ? ranks.scale[n] * total : 0);
  all[n * stride_all + blockIdx.y * padded + j] = to_float(value);
  if (wanted) adapters.t[blockIdx.y][n * adapters.stride_t[blockIdx.y] + j] = value;
}
