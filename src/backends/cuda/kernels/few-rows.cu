// Products of at most 8 rows of x with 4-bit weights that are read once, at the speed of memory: decoding. Blocks stay, and take
// one tile after the other. What a warp multiplies next, of the next tile too, is on its way into its shared memory meanwhile, and the
// next tile's scales are decoded. A lookup makes two bf16 of a byte; scales are applied to sums over their blocks.
#include "four-bit.cuh"
#include "few-rows.cuh"

/** Columns of a piece: what a warp copies at a time, 64 bytes of each row of the tile. */
constexpr u32 PIECE = 128, PIECE_BYTES = TILE * PIECE / 2;
constexpr u32 THREADS = 32 * WARPS;

__device__ __forceinline__ u32 shared_address(const void *at) { return (u32)__cvta_generic_to_shared(at); }
__device__ __forceinline__ void copy_16(u32 to, const void *from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
/** 16 bytes, of which `count` are read and the others 0. */
__device__ __forceinline__ void copy_16(u32 to, const void *from, u32 count) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
}
__device__ __forceinline__ void copy_4(u32 to, const void *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void await_copies_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/** Past the first cache, in which may lie what was there before kernels that this one has not waited for. */
__device__ __forceinline__ uint4 read_fresh(const uint4 *from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}

/** The scales of a tile in shared memory as they are stored: f32, or codes, and behind them the scales of these. */
struct StoredScales {
  char *at;
  u32 blocks;  // of a row

  /** By all threads. */
  __device__ __forceinline__ void copy(const FourBit &weight, const Tile &tile) const {
    const u32 first = tile.row0 * blocks, count = tile.rows * blocks, bytes = DOUBLE ? count : 4 * count;
    const char *from = DOUBLE ? (const char *)(weight.scale_codes + first) : (const char *)(weight.absmax + first);
    for (u32 i = threadIdx.x * 16; i < bytes; i += THREADS * 16) copy_16(shared_address(at + i), from + i, min(bytes - i, 16u));
    if (!DOUBLE) return;
    const u32 own = (first + count - 1) / 256 - first / 256 + 1;
    for (u32 i = threadIdx.x; i < own; i += THREADS) copy_4(shared_address(at + TILE * blocks + 4 * i), weight.absmax + first / 256 + i);
  }
  /** Into f32 [TILE][pitch]. By all threads: a warp takes every eighth row. */
  __device__ __forceinline__ void decode(float *to, u32 pitch, const FourBit &weight, const float *map, const Tile &tile) const {
    const u32 before = tile.row0 * blocks % 256;
    for (u32 row = threadIdx.x / 32; row < TILE; row += WARPS)
      for (u32 block = threadIdx.x % 32; block < blocks; block += 32) {
        const u32 i = min(row, tile.rows - 1) * blocks + block;
        StoredScale<DOUBLE> stored;
        if (DOUBLE) stored.code = (u8)at[i];
        stored.absmax = reinterpret_cast<const float *>(DOUBLE ? at + TILE * blocks : at)[DOUBLE ? (before + i) / 256 : i];
        to[row * pitch + block] = stored.value(map, weight.offset);
      }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 2)
few_rows(const bf16 *x, i64 stride_x, u32 rows, u32 cols, const float *t, u32 stride_t, u32 rank, u32 count, u32 tiles,
         u32 stored_bytes, const __grid_constant__ Linears<FourBit> linears) {
  extern __shared__ __align__(128) char shared[];
  __shared__ uint4 table[256 * 8];
  __shared__ Parts parts[2];
  __shared__ float maps[DOUBLE ? MOST_LINEARS : 1][256];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, quarter = lane % 4;
  const u32 pieces = (cols + PIECE - 1) / PIECE, blocks = cols / 64;
  const u32 first = pieces * warp / WARPS, own = pieces * (warp + 1) / WARPS - first;
  char *stages = shared + warp * STAGES * PIECE_BYTES;
  // Chunks of 16 bytes change places in every second pair of rows, so that lanes that read together meet in no bank.
  const u32 swizzle = g / 2 % 2 * 2;

  // Copies ahead: this warp's pieces of one tile after the other.
  u32 ahead_tile = blockIdx.x, left = 0;
  const u32 first_stage = shared_address(stages) + g * (PIECE / 2) + (quarter ^ swizzle) * 16;
  u32 ahead_stage = first_stage;
  const u8 *ahead[2] = {};
  const bool whole = cols % PIECE == 0 || quarter < 2 || first + own < pieces;
  const auto copy_ahead = [&] {
    if (left == 0 && own > 0 && ahead_tile < tiles) {
      const Tile tile(linears, count, ahead_tile);
      const u8 *codes = linears.weight[tile.which].codes + first * (PIECE / 2) + quarter * 16;
#pragma unroll
      for (int i = 0; i < 2; i++) ahead[i] = codes + (u64)tile.row(g + 8 * i) * (cols / 2);
      left = own;
      ahead_tile += gridDim.x;
    }
    if (left > 0) {
      left--;
      if (whole || left > 0) {
        copy_16(ahead_stage, ahead[0]);
        copy_16(ahead_stage + PIECE_BYTES / 2, ahead[1]);
      }
      ahead[0] += PIECE / 2;
      ahead[1] += PIECE / 2;
      ahead_stage = ahead_stage == first_stage + (STAGES - 1) * PIECE_BYTES ? first_stage : ahead_stage + PIECE_BYTES;
    }
    commit_copies();
  };
  // The scales of a tile are copied during the two before it, and decoded at its start. Rows of them start in other banks.
  char *stored = shared + WARPS * STAGES * PIECE_BYTES;
  float *scales = reinterpret_cast<float *>(stored + 2 * stored_bytes);
  const u32 pitch = blocks + 2 + blocks % 2;
  const auto copy_scales = [&](u32 index, u32 buffer) {
    if (index >= tiles) return;
    const Tile tile(linears, count, index);
    StoredScales{stored + buffer * stored_bytes, blocks}.copy(linears.weight[tile.which], tile);
  };

  copy_scales(blockIdx.x, 0);
  copy_scales(blockIdx.x + gridDim.x, 1);
  commit_copies();
  for (int i = 0; i < STAGES - 1; i++) copy_ahead();

  // Both weights of a byte as bf16, for each of the 256 bytes, once for each lane: no two lanes of a warp meet in a bank.
  const u32 pair = pack_bf16(linears.weight[0].book[threadIdx.x / 16], linears.weight[0].book[threadIdx.x % 16]);
#pragma unroll
  for (int i = 0; i < 8; i++) table[threadIdx.x * 8 + (lane + i) % 8] = make_uint4(pair, pair, pair, pair);
  const auto look_up = [&](u32 bytes_of_128) {
    return *reinterpret_cast<const u32 *>(reinterpret_cast<const char *>(table) + (bytes_of_128 & 255 * 128 | lane * 4));
  };
  if (DOUBLE)
    for (u32 i = threadIdx.x; i < count * 256; i += THREADS) maps[i / 256][i % 256] = linears.weight[i / 256].map[i % 256];
  await_copies_but<STAGES - 1>();
  let_next_kernel_start();
  // With an adapter, the kernel before made t, and waited for x itself before it let this one start.
  bool waited = rank == 0;
  if (waited) wait_for_kernels_before();
  __syncthreads();

  // Lanes past the last row of x take that: what becomes of theirs is not written.
  const bf16 *x_row = x + min(g, rows - 1) * stride_x + first * PIECE + quarter * 16;
  u32 stage = 0, turn = 0;
  for (u32 index = blockIdx.x; index < tiles; index += gridDim.x, turn ^= 1) {
    const Tile tile(linears, count, index);
    const Linear &linear = linears.linear[tile.which];
    const bool adapted = linear.unit != NO_ADAPTER;
    AdapterPart part;
    if (adapted && warp * 16 < rank) part.read(linear, tile, warp * 16, rank);
    const float *map = maps[DOUBLE ? tile.which : 0];
    StoredScales{stored + turn * stored_bytes, blocks}.decode(scales, pitch, linears.weight[tile.which], map, tile);
    __syncthreads();
    copy_scales(index + 2 * gridDim.x, turn);

    float total[4] = {};
    const bf16 *right_at = x_row;
    const float *scales_at = scales + g * pitch + 2 * first;
    for (u32 i = 0; i < own; i++, right_at += PIECE, scales_at += 2) {
      __syncwarp();
      copy_ahead();
      await_copies_but<STAGES - 1>();
      __syncwarp();
      const char *piece = stages + stage * PIECE_BYTES + g * (PIECE / 2) + quarter % 2 * 8;
      stage = stage + 1 == STAGES ? 0 : stage + 1;
      // The last piece may have one half only: the other is multiplied by what is there, and its scale is 0.
      const bool both = cols % PIECE == 0 || first + i + 1 < pieces;
      uint4 right[2][2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint4 *from = reinterpret_cast<const uint4 *>(right_at + (both ? half * 64 : 0));
#pragma unroll
        for (int k = 0; k < 2; k++) right[half][k] = waited ? from[k] : read_fresh(from + k);
      }
      float2 scale[2];
#pragma unroll
      for (int k = 0; k < 2; k++) {
        scale[k] = *reinterpret_cast<const float2 *>(scales_at + k * 8 * pitch);
        if (!both) scale[k].y = 0;
      }
      float sum[2][4] = {};
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          u32 a[4];
#pragma unroll
          for (int k = 0; k < 2; k++) {
            const uint2 codes = *reinterpret_cast<const uint2 *>(piece + k * (PIECE_BYTES / 2) + ((half * 2 + quarter / 2) ^ swizzle) * 16);
            const u32 four = j < 2 ? codes.x : codes.y;
            a[k] = look_up(j % 2 ? four >> 9 : four << 7);
            a[k + 2] = look_up(j % 2 ? four >> 17 : four >> 1);
          }
          const uint4 four = right[half][j / 2];
          multiply(sum[half], a, j % 2 ? four.z : four.x, j % 2 ? four.w : four.y);
        }
#pragma unroll
      for (int k = 0; k < 4; k++) total[k] += scale[k / 2].x * sum[0][k] + scale[k / 2].y * sum[1][k];
    }

    if (!waited) wait_for_kernels_before();
    waited = true;
    if (adapted)
      for (u32 from = warp * 16; from < rank; from += WARPS * 16) {
        if (from != warp * 16) part.read(linear, tile, from, rank);
        part.add(total, linear, t, stride_t, rows, from, rank);
      }
    put_part(parts[turn], warp, total);
    // The next tile's scales were asked for a tile ago: behind them are as many groups of copies as two tiles have pieces.
    if (2 * own < STAGES) {
      commit_copies();
      await_copies_but<0>();
    }
    __syncthreads();
    add_parts(parts[turn], linear, tile, rows, threadIdx.x);
  }
}
