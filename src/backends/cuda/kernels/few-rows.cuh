// What products of at most 8 rows of x share, whatever W is stored as (few-rows.cu, few-rows-dense.cu). A tile is 16 rows of
// W; the warps of a block take a part of its columns each. Tensor cores multiply, with W as the left operand and the rows of x
// as its 8 columns. The order of k inside a product is free as long as both operands share it, so that every lane reads whole words
// of a row.

constexpr int TILE = 16, MOST_ROWS = 8, WARPS = 8, MOST_LINEARS = 4;
constexpr u32 NO_ADAPTER = ~0u;

struct Linear {
  TYPE *y;
  i64 stride_y;
  const bf16 *bias;
  const ADAPTER_TYPE *b;  // [R, M]
  i64 stride_b;
  u32 rows;        // M
  u32 first_tile;  // of all linears
  u32 unit;        // first column of its adapter in t, or NO_ADAPTER
  u32 padding;
};

template <class Weight>
struct Linears {
  Linear linear[MOST_LINEARS];
  Weight weight[MOST_LINEARS];
};

/** Rows of one of the linears. */
struct Tile {
  u32 which, row0, rows;

  template <class Weight>
  __device__ __forceinline__ Tile(const Linears<Weight> &linears, u32 count, u32 index) {
    which = 0;
#pragma unroll
    for (u32 i = 1; i < MOST_LINEARS; i++)
      if (i < count && index >= linears.linear[i].first_tile) which = i;
    row0 = (index - linears.linear[which].first_tile) * TILE;
    rows = min(linears.linear[which].rows - row0, (u32)TILE);
  }
  /** Row i of the tile, or its last. */
  __device__ __forceinline__ u32 row(u32 i) const { return row0 + min(i, rows - 1); }
};

__device__ __forceinline__ void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/** A lane's part of 16 rows of B, as the left operand. */
struct AdapterPart {
  ADAPTER_TYPE b[2][4];

  __device__ __forceinline__ void read(const Linear &linear, const Tile &tile, u32 first, u32 rank) {
    const u32 g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const u32 j = rank_of(first, k);
#pragma unroll
      for (int i = 0; i < 2; i++) b[i][k] = j < rank ? linear.b[j * linear.stride_b + tile.row(g + 8 * i)] : ADAPTER_TYPE{};
    }
  }
  /** sum += t·B over them. */
  __device__ __forceinline__ void add(float (&sum)[4], const Linear &linear, const float *t, u32 stride_t, u32 rows, u32 first, u32 rank) const {
    const u32 g = threadIdx.x % 32 / 4;
    float right[4];
    u32 left[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const u32 j = rank_of(first, k);
      right[k] = g < rows && j < rank ? t[g * stride_t + linear.unit + j] : 0;
      left[k] = pack_bf16(to_float(b[k % 2][k / 2 * 2]), to_float(b[k % 2][k / 2 * 2 + 1]));
    }
    multiply(sum, left, pack_bf16(right[0], right[1]), pack_bf16(right[2], right[3]));
  }

 private:
  static __device__ __forceinline__ u32 rank_of(u32 first, int k) { return first + 2 * (threadIdx.x % 4) + k % 2 + k / 2 * 8; }
};

typedef float Parts[WARPS][TILE * MOST_ROWS];

__device__ __forceinline__ void put_part(Parts &parts, u32 warp, const float (&total)[4]) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; i++) parts[warp][(2 * (lane % 4) + i % 2) * TILE + lane / 4 + i / 2 * 8] = total[i];
}

/** y of a tile, in the order of the warps. */
__device__ __forceinline__ void add_parts(const Parts &parts, const Linear &linear, const Tile &tile, u32 rows, u32 thread) {
  if (thread >= TILE * MOST_ROWS) return;
  const u32 n = thread / TILE, m = thread % TILE;
  if (n >= rows || m >= tile.rows) return;
  float sum = linear.bias ? to_float(linear.bias[tile.row0 + m]) : 0;
#pragma unroll
  for (int i = 0; i < WARPS; i++) sum += parts[i][thread];
  linear.y[n * linear.stride_y + tile.row0 + m] = from_float<TYPE>(sum);
}
