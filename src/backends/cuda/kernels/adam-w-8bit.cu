// AdamW with moments in 8 bits, on a window of rows of every tensor of a list. A warp takes a block of 256 columns: decodes
// both moments, updates, and codes them again. Lane l holds columns l, l + 32, …: every access of a warp is contiguous.
#include "adam-w.cuh"

constexpr u32 MOMENT_BLOCK = 256, OF_A_LANE = MOMENT_BLOCK / 32;

struct Entry {
  u64 first_block;
  float *param;
  const float *gradient;
  u8 *m_codes;
  float *m_absmax;
  u8 *v_codes;
  float *v_absmax;
  bf16 *copy;
  i64 stride_param, stride_gradient, stride_m_codes, stride_m_absmax, stride_v_codes, stride_v_absmax, stride_copy;
  double learning_rate;
  u32 cols, moment_blocks;
};

/** Number of thresholds (values half-way between neighbouring levels) below x: a tie goes to the lower level. */
__device__ __forceinline__ u32 nearest_level(const float *levels, float x) {
  u32 low = 0, high = 255;
#pragma unroll
  for (int step = 0; step < 8; step++) {
    const u32 middle = (low + high) / 2;
    const bool above = low < high && x > __fadd_rn(levels[middle], levels[middle + 1]) * 0.5f;
    if (above) low = middle + 1;
    else if (low < high) high = middle;
  }
  return low;
}

__device__ __forceinline__ void encode(const float *levels, const float (&values)[OF_A_LANE], u8 *codes, float *absmax, u32 cols) {
  float most = 0;
#pragma unroll
  for (int i = 0; i < OF_A_LANE; i++) most = fmaxf(most, fabsf(values[i]));
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, distance));
  // The floor keeps the values of a zero block at 0 instead of 0·∞.
  const float inverse = __fdiv_rn(1.0f, fmaxf(most, 1e-38f));
  if (threadIdx.x == 0) *absmax = most;
#pragma unroll
  for (int i = 0; i < OF_A_LANE; i++) {
    const u32 col = threadIdx.x + 32 * i;
    if (col < cols) codes[col] = (u8)nearest_level(levels, __fmul_rn(values[i], inverse));
  }
}

extern "C" __global__ void adam_w_8bit(const Entry *table, const float *m_map, const float *v_map, const int *steps,
                                       i64 stride_steps, const float *squares, AdamWSettings settings, u64 blocks) {
  __shared__ float m_levels[256], v_levels[256];
  const float scale = clip_factor(*squares, settings.max_norm);
  if (scale != scale) return;
  for (u32 i = threadIdx.y * 32 + threadIdx.x; i < 256; i += 32 * blockDim.y) {
    m_levels[i] = m_map[i];
    v_levels[i] = v_map[i];
  }
  __syncthreads();
  const u64 at = (u64)blockIdx.x * blockDim.y + threadIdx.y;
  if (at >= blocks) return;
  const Entry &e = entry_of_block(table, settings.tensors, at);
  const u64 row = (at - e.first_block) / e.moment_blocks, block = (at - e.first_block) % e.moment_blocks;
  const u64 from = block * MOMENT_BLOCK;
  const u32 cols = (u32)(e.cols - from < MOMENT_BLOCK ? e.cols - from : MOMENT_BLOCK);
  const RowUpdate u = row_update(settings, scale, e.learning_rate, steps[row * stride_steps]);
  float *param = e.param + row * e.stride_param + from;
  const float *gradient = e.gradient + row * e.stride_gradient + from;
  u8 *m_codes = e.m_codes + row * e.stride_m_codes + from, *v_codes = e.v_codes + row * e.stride_v_codes + from;
  float *m_absmax = e.m_absmax + row * e.stride_m_absmax + block, *v_absmax = e.v_absmax + row * e.stride_v_absmax + block;
  const float m_scale = *m_absmax, v_scale = *v_absmax;
  float first[OF_A_LANE], second[OF_A_LANE];
#pragma unroll
  for (int i = 0; i < OF_A_LANE; i++) {
    const u32 col = threadIdx.x + 32 * i;
    first[i] = second[i] = 0;
    if (col >= cols) continue;
    first[i] = __fmul_rn(m_levels[m_codes[col]], m_scale);
    second[i] = __fmul_rn(v_levels[v_codes[col]], v_scale);
    float p = param[col];
    update(u, gradient[col], p, first[i], second[i]);
    param[col] = p;
    if (e.copy) e.copy[row * e.stride_copy + from + col] = from_float<bf16>(p);
  }
  __syncwarp();
  encode(m_levels, first, m_codes, m_absmax, cols);
  encode(v_levels, second, v_codes, v_absmax, cols);
}
