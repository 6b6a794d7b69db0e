// sum = Σ x² over a list of tensors, in f64: each block sums a stretch of elements of one tensor, then one block sums the
// blocks' parts, always in one order.

struct Entry {
  u64 first_block;
  const float *x;
  i64 stride;
  u32 rows, packs;
};

extern "C" __global__ void sum_squares_parts(const Entry *table, u32 tensors, u32 packs_per_block, double *parts) {
  const Entry &e = entry_of_block(table, tensors, blockIdx.x);
  const u64 total = (u64)e.rows * e.packs, from = (blockIdx.x - e.first_block) * packs_per_block;
  const u64 to = from + packs_per_block < total ? from + packs_per_block : total;
  double sum = 0;
  for (u64 at = from + threadIdx.x; at < to; at += blockDim.x) {
    const u32 row = (u32)at / e.packs, pack = (u32)at - row * e.packs;
    float v[WIDTH];
    load(v, e.x + row * e.stride + (u64)pack * WIDTH);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) squares += v[i] * v[i];
    sum += squares;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void sum_squares_total(const double *parts, u32 count, float *total) {
  double sum = 0;
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = (float)sum;
}
