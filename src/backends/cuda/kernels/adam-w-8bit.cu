// AdamW with moments in 8 bits, on a window of rows of every tensor of a list. A warp takes a block of 256 columns: decodes
// both moments, updates, and codes them again. A lane holds runs of WIDTH columns, 32 of them apart: every access of a warp
// is contiguous.
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

/** Column of the i-th value that this lane holds. */
__device__ __forceinline__ u32 column(int i) { return (i / WIDTH * 32 + threadIdx.x) * WIDTH + i % WIDTH; }

/** Number of thresholds below x. */
__device__ __forceinline__ u32 nearest_level(const float *thresholds, float x) {
  u32 level = 0;
#pragma unroll
  for (u32 step = 128; step > 0; step /= 2) level += x > thresholds[level + step - 1] ? step : 0;
  return level;
}

/** Levels of a map, and the values half-way between neighbours: a tie goes to the lower level. */
struct Map {
  float levels[256], thresholds[255];
};

__device__ __forceinline__ void read_map(Map &map, const float *levels) {
  for (u32 i = threadIdx.y * 32 + threadIdx.x; i < 256; i += 32 * blockDim.y) {
    map.levels[i] = levels[i];
    if (i < 255) map.thresholds[i] = __fadd_rn(levels[i], levels[i + 1]) * 0.5f;
  }
}

__device__ __forceinline__ void encode(const Map &map, const float (&values)[OF_A_LANE], u8 *codes, float *absmax, u32 cols) {
  float most = 0;
#pragma unroll
  for (int i = 0; i < OF_A_LANE; i++) most = fmaxf(most, fabsf(values[i]));
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, distance));
  // The floor keeps the values of a zero block at 0 instead of 0·∞.
  const float inverse = __fdiv_rn(1.0f, fmaxf(most, 1e-38f));
  if (threadIdx.x == 0) *absmax = most;
#pragma unroll
  for (int run = 0; run < OF_A_LANE; run += WIDTH) {
    Pack<u8, WIDTH> pack;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) pack.at[i] = (u8)nearest_level(map.thresholds, __fmul_rn(values[run + i], inverse));
    if (column(run) < cols) *reinterpret_cast<Pack<u8, WIDTH> *>(codes + column(run)) = pack;
  }
}

extern "C" __global__ void adam_w_8bit(const Entry *table, const float *m_map, const float *v_map, const int *steps,
                                       i64 stride_steps, const float *squares, AdamWSettings settings, u64 blocks) {
  __shared__ Map maps[2];
  const float scale = clip_factor(*squares, settings.max_norm);
  if (scale != scale) return;
  read_map(maps[0], m_map);
  read_map(maps[1], v_map);
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
  for (int run = 0; run < OF_A_LANE; run += WIDTH) {
    const u32 col = column(run);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) first[run + i] = second[run + i] = 0;
    if (col >= cols) continue;
    const Pack<u8, WIDTH> m_pack = *reinterpret_cast<const Pack<u8, WIDTH> *>(m_codes + col);
    const Pack<u8, WIDTH> v_pack = *reinterpret_cast<const Pack<u8, WIDTH> *>(v_codes + col);
    float p[WIDTH], g[WIDTH];
    load(p, param + col);
    load(g, gradient + col);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      first[run + i] = __fmul_rn(maps[0].levels[m_pack.at[i]], m_scale);
      second[run + i] = __fmul_rn(maps[1].levels[v_pack.at[i]], v_scale);
      update(u, g[i], p[i], first[run + i], second[run + i]);
    }
    store(param + col, p);
    if (e.copy) store(e.copy + row * e.stride_copy + from + col, p);
  }
  encode(maps[0], first, m_codes, m_absmax, cols);
  encode(maps[1], second, v_codes, v_absmax, cols);
}
