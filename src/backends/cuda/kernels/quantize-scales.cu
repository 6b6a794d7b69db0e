// Scales of blocks to 8-bit codes: the mean of all in f64 by one block in one order, then a block for each 256 scales.

extern "C" __global__ void mean_of_scales(const float *absmax, u32 count, float *offset) {
  double sum = 0;
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += absmax[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *offset = (float)(sum / count);
}

extern "C" __global__ void quantize_scales(const float *absmax, u32 count, const float *map, const float *offset, u8 *codes,
                                           float *absmax2) {
  __shared__ float thresholds[256], parts[8];
  const u32 i = blockIdx.x * 256 + threadIdx.x;
  // Half-way between neighbours; the last is above everything.
  thresholds[threadIdx.x] =
      threadIdx.x < 255 ? __fmul_rn(__fadd_rn(map[threadIdx.x], map[threadIdx.x + 1]), 0.5f) : __uint_as_float(0x7f800000u);
  const float centred = i < count ? __fsub_rn(absmax[i], *offset) : 0;
  float largest = fabsf(centred);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int part = 0; part < 8; part++) largest = fmaxf(largest, parts[part]);
  if (threadIdx.x == 0) absmax2[blockIdx.x] = largest;
  if (i >= count) return;
  const float x = __fmul_rn(centred, __fdiv_rn(1.0f, fmaxf(largest, 1e-38f)));
  u32 low = 0, high = 255;
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (x > thresholds[middle])
      low = middle + 1;
    else
      high = middle;
  }
  codes[i] = low;
}
