// What the products around an adapter need: A below W, B beside W, t and g in their places. The products are cuBLASLt's.

/** Up to four matrices of one width. */
struct Matrices {
  u64 at[4];
  i64 stride[4];
};

/** Rows < rank of each A below one another, `padded` rows apart, zeros below them. WIDTH elements a thread. */
extern "C" __global__ void stack_rows(const __grid_constant__ Matrices from, u32 rank, u32 padded, TYPE *to, i64 stride, u32 packs) {
  take_turn();
  const u32 pack = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (pack >= packs) return;
  float v[WIDTH] = {};
  if (row < rank) load(v, reinterpret_cast<const FROM *>(from.at[blockIdx.z]) + row * from.stride[blockIdx.z] + pack * WIDTH);
  store(to + (blockIdx.z * padded + row) * stride + pack * WIDTH, v);
}

/** to[m][j] = B[j][m] for j < rank, else 0: 32 rows of `to` a block, turned in shared memory. */
extern "C" __global__ void __launch_bounds__(256) turn_rows(const FROM *from, i64 stride_from, u32 rank, u32 padded, TYPE *to, i64 stride,
                                                            u32 rows) {
  take_turn();
  __shared__ float tile[32][33];
  const u32 row0 = blockIdx.x * 32, j0 = blockIdx.y * 32;
  for (u32 j = threadIdx.y; j < 32; j += 8) {
    const u32 row = row0 + threadIdx.x;
    tile[j][threadIdx.x] = j0 + j < rank && row < rows ? to_float(from[(j0 + j) * stride_from + row]) : 0;
  }
  __syncthreads();
  if (j0 + threadIdx.x >= padded) return;
  for (u32 i = threadIdx.y; i < 32 && row0 + i < rows; i += 8)
    to[(row0 + i) * stride + j0 + threadIdx.x] = from_float<TYPE>(tile[threadIdx.x][i]);
}

/**
 * Products with A or B, scaled, where they are wanted: in `to` each unit of `padded` columns has zeros from the rank on; in
 * `named` (the saved t) columns from the rank on stay what they are.
 */
extern "C" __global__ void place_products(const FROM *from, i64 stride_from, u32 rows, u32 columns, u32 padded, u32 rank, float scale,
                                          TYPE *to, i64 stride_to, TYPE *named, i64 stride_named) {
  take_turn();
  const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  const u32 row = at / columns, column = at - (u64)row * columns;
  if (row >= rows) return;
  const bool wanted = column % padded < rank;
  const TYPE value = from_float<TYPE>(wanted ? scale * to_float(from[row * stride_from + column]) : 0);
  if (to) to[row * stride_to + column] = value;
  if (named && wanted) named[row * stride_named + column] = value;
}

/** to += from, rows < rank of each of several matrices that lie `padded` rows apart in `from`. */
extern "C" __global__ void add_rows(const float *from, i64 stride, u32 padded, const __grid_constant__ Matrices to, u32 packs) {
  take_turn();
  const u32 pack = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (pack >= packs) return;
  float *sum = reinterpret_cast<float *>(to.at[blockIdx.z]) + row * to.stride[blockIdx.z] + pack * WIDTH;
  float v[WIDTH], w[WIDTH];
  load(v, from + (blockIdx.z * padded + row) * stride + pack * WIDTH);
  load(w, sum);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) w[i] += v[i];
  store(sum, w);
}

/** Every row of y is the bias; zeros without one. */
extern "C" __global__ void fill_rows(const TYPE *bias, TYPE *y, i64 stride, u32 packs) {
  take_turn();
  const u32 pack = blockIdx.x * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  float v[WIDTH] = {};
  if (bias) load(v, bias + pack * WIDTH);
  store(y + blockIdx.y * stride + pack * WIDTH, v);
}
