// Products of at most 8 rows of x with weights that are read once, at the speed of memory: decoding. A block takes 16 rows of W,
// a warp a part of their columns; tensor cores multiply, with W as the left operand and the rows of x as its 8 columns. The
// order of k inside a product is free as long as both operands share it, so that every lane reads whole words of a row.
#include "four-bit.cuh"

constexpr int TILE = 16, MOST_ROWS = 8, WARPS = 8, AHEAD = 4;
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

/** What a lane holds of 64 columns of rows g and g + 8 of a tile: 16 weights of each, columns 16·(lane % 4) on. */
#if FOUR_BIT
struct Piece {
  uint2 codes[2];
  StoredScale<DOUBLE> scale[2];
  uint4 right[2];

  __device__ __forceinline__ void read(const FourBit &weight, const u32 (&row)[2], u32 blocks_per_row, u32 block, u32 quarter) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u64 at = (u64)row[i] * blocks_per_row + block;
      codes[i] = *reinterpret_cast<const uint2 *>(weight.codes + at * 32 + quarter * 8);
      scale[i].read(weight, at);
    }
  }
  /** Weights 4j..4j+3 of both rows as an operand; `pairs` is this lane's own copy of the table. */
  __device__ __forceinline__ void operand(u32 (&a)[4], int j, const u32 *pairs) const {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u32 bytes = (j < 2 ? codes[i].x : codes[i].y) >> (j % 2 ? 16 : 0);
      a[i] = pairs[(bytes & 255) * 32];
      a[i + 2] = pairs[(bytes >> 8 & 255) * 32];
    }
  }
  __device__ __forceinline__ void add(float (&total)[4], const float (&sum)[4], const float *map, float offset) const {
    const float absmax[2] = {scale[0].value(map, offset), scale[1].value(map, offset)};
#pragma unroll
    for (int i = 0; i < 4; i++) total[i] += absmax[i / 2] * sum[i];
  }
};
#else
struct Piece {
  uint4 values[2][2];
  uint4 right[2];

  __device__ __forceinline__ void read(const Dense &weight, const u32 (&row)[2], u32, u32 block, u32 quarter) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint4 *from = reinterpret_cast<const uint4 *>(weight.values + row[i] * weight.stride + block * 64 + quarter * 16);
      values[i][0] = from[0];
      values[i][1] = from[1];
    }
  }
  __device__ __forceinline__ void operand(u32 (&a)[4], int j, const u32 *) const {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint4 four = values[i][j / 2];
      a[i] = j % 2 ? four.z : four.x;
      a[i + 2] = j % 2 ? four.w : four.y;
    }
  }
  __device__ __forceinline__ void add(float (&total)[4], const float (&sum)[4], const float *, float) const {
#pragma unroll
    for (int i = 0; i < 4; i++) total[i] += sum[i];
  }
};
#endif

/** The rows of x that meet what a piece holds: a lane's is row `lane / 4`. */
__device__ __forceinline__ void read_right(Piece &piece, const bf16 *x_row, u32 block, u32 quarter) {
  const uint4 *from = reinterpret_cast<const uint4 *>(x_row + block * 64 + quarter * 16);
  piece.right[0] = x_row ? from[0] : make_uint4(0, 0, 0, 0);
  piece.right[1] = x_row ? from[1] : make_uint4(0, 0, 0, 0);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) few_rows(const bf16 *x, i64 stride_x, u32 rows, u32 blocks_per_row,
                                                                  const float *t, u32 stride_t, u32 rank, u32 count,
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
  u32 block = blocks_per_row * warp / WARPS;
  const u32 end = blocks_per_row * (warp + 1) / WARPS;

  Piece pieces[AHEAD];
#pragma unroll
  for (int i = 0; i < AHEAD; i++)
    if (block + i < end) {
      pieces[i].read(weight, row, blocks_per_row, block + i, quarter);
      read_right(pieces[i], x_row, block + i, quarter);
    }

#if FOUR_BIT
  // Both weights of a byte as bf16, for each of the 256 bytes, once for each lane: no two lanes of a warp meet in a bank.
  __shared__ uint4 table[256 * 8];
  __shared__ float map[256];
  if (DOUBLE) map[threadIdx.x] = weight.map[threadIdx.x];
  const u32 pair = pack_bf16(weight.book[threadIdx.x / 16], weight.book[threadIdx.x % 16]);
#pragma unroll
  for (int i = 0; i < 8; i++) table[threadIdx.x * 8 + (lane + i) % 8] = make_uint4(pair, pair, pair, pair);
  __syncthreads();
  const u32 *pairs = reinterpret_cast<const u32 *>(table) + lane;
  const float offset = weight.offset;
#else
  const u32 *pairs = nullptr;
  const float *map = nullptr;
  const float offset = 0;
#endif

  float total[4] = {};
  for (; block < end; block += AHEAD) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      if (block + i >= end) continue;
      float sum[4] = {};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 a[4];
        pieces[i].operand(a, j, pairs);
        const uint4 four = pieces[i].right[j / 2];
        multiply(sum, a, j % 2 ? four.z : four.x, j % 2 ? four.w : four.y);
      }
      pieces[i].add(total, sum, map, offset);
      if (block + AHEAD + i >= end) continue;
      pieces[i].read(weight, row, blocks_per_row, block + AHEAD + i, quarter);
      read_right(pieces[i], x_row, block + AHEAD + i, quarter);
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
