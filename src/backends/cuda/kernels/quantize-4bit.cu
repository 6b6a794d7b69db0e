// Blocks of 64 consecutive values to codes and absmax: a warp takes a block, a lane two values and so one byte of codes.

/** NF4: 15 thresholds. FP4: 7 thresholds of the magnitude, then the code above each. */
struct Rule {
  float thresholds[16];
  u32 codes[8];
};

__device__ __forceinline__ u32 code_of(const Rule &rule, float x) {
  u32 level = 0;
#pragma unroll
  for (int i = 0; i < (FP4 ? 7 : 15); i++) level += (FP4 ? fabsf(x) : x) > rule.thresholds[i];
  if (!FP4) return level;
  u32 code = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) code = level == i ? rule.codes[i] : code;
  return code + (x < 0 ? 8 : 0);
}

extern "C" __global__ void __launch_bounds__(256) quantize_4bit(const FROM *w, i64 stride, u32 cols, u64 total, u8 *codes,
                                                                float *absmax, const __grid_constant__ Rule rule) {
  const u64 block = (u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, at = block * 64 + threadIdx.x % 32 * 2;
  if (block * 64 >= total) return;
  float v[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u64 row = (at + i) / cols;
    v[i] = at + i < total ? to_float(w[row * stride + (at + i - row * cols)]) : 0;
  }
  float largest = fmaxf(fabsf(v[0]), fabsf(v[1]));
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
  // The floor keeps a block of zeros at 0 instead of 0·∞.
  const float reciprocal = __fdiv_rn(1.0f, fmaxf(largest, 1e-38f));
  if (threadIdx.x % 32 == 0) absmax[block] = largest;
  if (at < total) codes[at / 2] = code_of(rule, __fmul_rn(v[0], reciprocal)) << 4 | code_of(rule, __fmul_rn(v[1], reciprocal));
}
