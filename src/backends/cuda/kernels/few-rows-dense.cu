// Products of at most 8 rows of x with dense bf16 weights that are read once, at the speed of memory: decoding. A block takes
// a tile.
#include "few-rows.cuh"

constexpr int AHEAD = 2;

/** Weights of a row-major matrix. */
struct Dense {
  const bf16 *values;
  i64 stride;
};

/**
 * What a lane reads of 128 columns of rows g and g + 8 of a tile, and of its row of x. A quarter q of a warp's lanes multiplies
 * columns 32·(q mod 2) + 16·(q div 2) on, 16 of each 64.
 */
struct Piece {
  uint4 left[2][4];
  uint4 right[2][2];

  __device__ __forceinline__ void read(const Dense &weight, const u32 (&row)[2], const bf16 *x_row, u32 cols, u32 column) {
    const u32 quarter = threadIdx.x % 4, offset = quarter % 2 * 32 + quarter / 2 * 16;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 at = column + half * 64;
      const bool inside = at < cols;
      read_16(&left[0][2 * half], weight.values + row[0] * weight.stride + at + offset, inside);
      read_16(&left[1][2 * half], weight.values + row[1] * weight.stride + at + offset, inside);
      read_16(right[half], x_row + at + offset, inside && x_row);
    }
  }

 private:
  /** 16 neighbouring columns, or zeros. */
  static __device__ __forceinline__ void read_16(uint4 *to, const bf16 *from, bool inside) {
#pragma unroll
    for (int i = 0; i < 2; i++) to[i] = inside ? reinterpret_cast<const uint4 *>(from)[i] : make_uint4(0, 0, 0, 0);
  }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
few_rows_dense(const bf16 *x, i64 stride_x, u32 rows, u32 cols, const float *t, u32 stride_t, u32 rank, u32 count,
               const __grid_constant__ Linears<Dense> linears) {
  take_turn();
  const Tile tile(linears, count, blockIdx.x);
  const Linear &linear = linears.linear[tile.which];
  const Dense &weight = linears.weight[tile.which];
  const u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
  const u32 row[2] = {tile.row(g), tile.row(g + 8)};
  const bf16 *x_row = g < rows ? x + g * stride_x : nullptr;
  const u32 steps = (cols + 127) / 128, end = steps * (warp + 1) / WARPS;
  u32 step = steps * warp / WARPS;

  Piece pieces[AHEAD];
#pragma unroll
  for (int i = 0; i < AHEAD; i++)
    if (step + i < end) pieces[i].read(weight, row, x_row, cols, (step + i) * 128);
  float total[4] = {};
  for (; step < end; step += AHEAD) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      if (step + i >= end) continue;
      Piece &piece = pieces[i];
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const uint4 above = piece.left[0][j / 2], below = piece.left[1][j / 2], four = piece.right[j / 4][j / 2 % 2];
        const u32 left[4] = {j % 2 ? above.z : above.x, j % 2 ? below.z : below.x, j % 2 ? above.w : above.y, j % 2 ? below.w : below.y};
        multiply(total, left, j % 2 ? four.z : four.x, j % 2 ? four.w : four.y);
      }
      if (step + AHEAD + i < end) piece.read(weight, row, x_row, cols, (step + AHEAD + i) * 128);
    }
  }
  if (linear.unit != NO_ADAPTER)
    for (u32 from = warp * 16; from < rank; from += WARPS * 16) {
      AdapterPart part;
      part.read(linear, tile, from, rank);
      part.add(total, linear, t, stride_t, rows, from, rank);
    }
  __shared__ Parts parts;
  put_part(parts, warp, total);
  __syncthreads();
  add_parts(parts, linear, tile, rows, threadIdx.x);
}
