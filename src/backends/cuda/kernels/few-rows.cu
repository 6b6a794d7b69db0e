// Products of at most 8 rows of x with weights that are read once, at the speed of memory: decoding. A block takes 16 rows of W,
// a warp a part of their columns; tensor cores multiply, with W as the left operand and the rows of x as its 8 columns. The
// order of k inside a product is free as long as both operands share it, so that every lane reads whole words of a row.
#include "four-bit.cuh"

constexpr int TILE = 16, MOST_ROWS = 8, WARPS = 8, AHEAD = 2;
constexpr u32 NO_ADAPTER = ~0u;

/** Weights of a dense row-major matrix. */
struct Dense {
  const bf16 *values;
  i64 stride;
};

#if FOUR_BIT
typedef FourBit Weight;
#else
typedef Dense Weight;
#endif

struct Linear {
  TYPE *y;
  i64 stride_y;
  const bf16 *bias;
  const ADAPTER_TYPE *b;  // [R, M]
  i64 stride_b;
  u32 rows;        // M
  u32 first_tile;  // of the grid
  u32 unit;        // first column of its adapter in t, or NO_ADAPTER
  u32 padding;
};

struct Linears {
  Linear linear[4];
  Weight weight[4];
};

__device__ __forceinline__ void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/**
 * What a lane reads of 128 columns of rows g and g + 8 of a tile. A quarter q of a warp's lanes multiplies columns
 * 32·(q mod 2) + 16·(q div 2) on, 16 of each 64: so that all lanes are in one block of scales at a time.
 */
struct Piece {
  uint4 weights[2][FOUR_BIT ? 1 : 4];
  uint4 right[2][2];

#if FOUR_BIT
  /**
   * 32 neighbouring weights of a row each; half of them are for the lane two quarters away. Behind the last column stays what
   * was there: any byte is a pair of finite weights, and meets zeros of x.
   */
  __device__ __forceinline__ void read(const FourBit &weight, const u32 (&row)[2], u32 cols, u32 column, u32 quarter) {
    if (column + quarter * 32 >= cols) return;
#pragma unroll
    for (int i = 0; i < 2; i++)
      weights[i][0] = *reinterpret_cast<const uint4 *>(weight.codes + ((u64)row[i] * cols + column) / 2 + quarter * 16);
  }
  /** Trades halves: afterwards x and y are of the first 64 columns, z and w of the second. */
  __device__ __forceinline__ void trade(u32 quarter) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      uint4 &own = weights[i][0];
      const bool early = quarter < 2;
      const u32 x = __shfl_xor_sync(~0u, early ? own.z : own.x, 2), y = __shfl_xor_sync(~0u, early ? own.w : own.y, 2);
      if (early)
        own = make_uint4(own.x, own.y, x, y);
      else
        own = make_uint4(x, y, own.z, own.w);
    }
  }
  /** Weights 4j..4j+3 of a half as an operand; `pairs` is this lane's own copy of the table. */
  __device__ __forceinline__ void operand(u32 (&a)[4], int half, int j, const u32 *pairs) const {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint4 four = weights[i][0];
      const u32 bytes = (half ? j < 2 ? four.z : four.w : j < 2 ? four.x : four.y) >> (j % 2 ? 16 : 0);
      a[i] = pairs[(bytes & 255) * 32];
      a[i + 2] = pairs[(bytes >> 8 & 255) * 32];
    }
  }
#else
  __device__ __forceinline__ void read(const Dense &weight, const u32 (&row)[2], u32 cols, u32 column, u32 quarter) {
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const bool inside = column + half * 64 < cols;
        const uint4 *from = reinterpret_cast<const uint4 *>(weight.values + row[i] * weight.stride + column + half * 64 + offset(quarter));
        weights[i][2 * half] = inside ? from[0] : make_uint4(0, 0, 0, 0);
        weights[i][2 * half + 1] = inside ? from[1] : make_uint4(0, 0, 0, 0);
      }
  }
  __device__ __forceinline__ void trade(u32) {}
  __device__ __forceinline__ void operand(u32 (&a)[4], int half, int j, const u32 *) const {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint4 four = weights[i][2 * half + j / 2];
      a[i] = j % 2 ? four.z : four.x;
      a[i + 2] = j % 2 ? four.w : four.y;
    }
  }
#endif

  static __device__ __forceinline__ u32 offset(u32 quarter) { return quarter % 2 * 32 + quarter / 2 * 16; }

  /** The columns of this lane's row of x that meet them; zeros behind the last and below the last row. */
  __device__ __forceinline__ void read_right(const bf16 *x_row, u32 cols, u32 column, u32 quarter) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const bool inside = x_row && column + half * 64 < cols;
      const uint4 *from = reinterpret_cast<const uint4 *>(x_row + column + half * 64 + offset(quarter));
      right[half][0] = inside ? from[0] : make_uint4(0, 0, 0, 0);
      right[half][1] = inside ? from[1] : make_uint4(0, 0, 0, 0);
    }
  }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS, 2) few_rows(const bf16 *x, i64 stride_x, u32 rows, u32 cols, const float *t,
                                                                     u32 stride_t, u32 rank, u32 count,
                                                                     const __grid_constant__ Linears linears) {
  u32 which = 0;
#pragma unroll
  for (u32 i = 1; i < 4; i++)
    if (i < count && blockIdx.x >= linears.linear[i].first_tile) which = i;
  const Linear &linear = linears.linear[which];
  const Weight &weight = linears.weight[which];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, quarter = lane % 4;
  const u32 row0 = (blockIdx.x - linear.first_tile) * TILE, last = linear.rows - 1;
  const u32 row[2] = {min(row0 + g, last), min(row0 + g + 8, last)};
  const bf16 *x_row = g < rows ? x + g * stride_x : nullptr;
  const u32 steps = (cols + 127) / 128;
  u32 step = steps * warp / WARPS;
  const u32 end = steps * (warp + 1) / WARPS;

  Piece pieces[AHEAD];
#pragma unroll
  for (int i = 0; i < AHEAD; i++)
    if (step + i < end) {
      pieces[i].read(weight, row, cols, (step + i) * 128, quarter);
      pieces[i].read_right(x_row, cols, (step + i) * 128, quarter);
    }

#if FOUR_BIT
  // The scales of the tile: [TILE][blocks + 1], so that rows start in other banks.
  extern __shared__ float scales[];
  const u32 blocks = cols / 64;
  for (u32 i = threadIdx.x; i < TILE * blocks; i += blockDim.x) {
    const u32 r = i / blocks, block = i - r * blocks;
    StoredScale<DOUBLE> stored;
    stored.read(weight, min(row0 + r, last) * blocks + block);
    scales[r * (blocks + 1) + block] = stored.value(weight.map, weight.offset);
  }
  // Both weights of a byte as bf16, for each of the 256 bytes, once for each lane: no two lanes of a warp meet in a bank.
  __shared__ uint4 table[256 * 8];
  const u32 pair = pack_bf16(weight.book[threadIdx.x / 16], weight.book[threadIdx.x % 16]);
#pragma unroll
  for (int i = 0; i < 8; i++) table[threadIdx.x * 8 + (lane + i) % 8] = make_uint4(pair, pair, pair, pair);
  __syncthreads();
  const u32 *pairs = reinterpret_cast<const u32 *>(table) + lane;
#else
  const u32 *pairs = nullptr;
#endif

  float total[4] = {};
  for (; step < end; step += AHEAD) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      if (step + i >= end) continue;
      Piece &piece = pieces[i];
      piece.trade(quarter);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float sum[4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          u32 a[4];
          piece.operand(a, half, j, pairs);
          const uint4 four = piece.right[half][j / 2];
          multiply(sum, a, j % 2 ? four.z : four.x, j % 2 ? four.w : four.y);
        }
#if FOUR_BIT
        // Behind the last block there are only zeros, but a scale must be read inside.
        const u32 block = min(2 * (step + i) + half, blocks - 1);
        const float above = scales[g * (blocks + 1) + block], below = scales[(g + 8) * (blocks + 1) + block];
#else
        const float above = 1, below = 1;
#endif
        total[0] += above * sum[0];
        total[1] += above * sum[1];
        total[2] += below * sum[2];
        total[3] += below * sum[3];
      }
      if (step + AHEAD + i >= end) continue;
      piece.read(weight, row, cols, (step + AHEAD + i) * 128, quarter);
      piece.read_right(x_row, cols, (step + AHEAD + i) * 128, quarter);
    }
  }

  // t·B: a warp takes every eighth row of B.
  if (linear.unit != NO_ADAPTER)
#pragma unroll 8
    for (u32 j = warp; j < rank; j += WARPS) {
      const float left = to_float(linear.b[j * linear.stride_b + row[0]]), below = to_float(linear.b[j * linear.stride_b + row[1]]);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u32 n = 2 * quarter + i;
        const float value = n < rows ? t[n * stride_t + linear.unit + j] : 0;
        total[i] += left * value;
        total[2 + i] += below * value;
      }
    }

  __shared__ float parts[WARPS][TILE * MOST_ROWS];
#pragma unroll
  for (int i = 0; i < 4; i++) parts[warp][(2 * quarter + i % 2) * TILE + g + i / 2 * 8] = total[i];
  __syncthreads();
  if (threadIdx.x >= TILE * MOST_ROWS) return;
  const u32 n = threadIdx.x / TILE, m = row0 + threadIdx.x % TILE;
  if (n >= rows || m > last) return;
  float sum = linear.bias ? to_float(linear.bias[m]) : 0;
#pragma unroll
  for (int i = 0; i < WARPS; i++) sum += parts[i][threadIdx.x];
  linear.y[n * linear.stride_y + m] = from_float<TYPE>(sum);
}
