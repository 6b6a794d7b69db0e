// Tiles in shared memory and products by mma.sync: the path of every GPU from sm_80 on. A tile's rows are PITCH bytes apart,
// an odd number of 16-byte chunks: eight rows at the same column lie in different banks.

#define PITCH (PADDED_DIM * 2 + 16)

INLINE u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

INLINE void copy_async16(u32 target, const void *source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(valid ? 16 : 0));
}
INLINE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
INLINE void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/** Rows first .. first + ROWS − 1 of one head, by THREADS threads of which this is `thread`; zeros from row `end` and column HEAD_DIM on. */
template <int ROWS, int THREADS>
INLINE void load_tile(u32 tile, const u16 *source, i64 stride, int first, int end, int thread) {
  constexpr int CHUNKS = PADDED_DIM / 8;
#pragma unroll
  for (int i = thread; i < ROWS * CHUNKS; i += THREADS) {
    const int row = i / CHUNKS, chunk = i % CHUNKS;
    const bool valid = first + row < end && chunk * 8 < HEAD_DIM;
    copy_async16(tile + row * PITCH + chunk * 16, valid ? source + (first + row) * stride + chunk * 8 : source, valid);
  }
}

INLINE void load_matrices(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
INLINE void load_matrices_transposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
INLINE void multiply_add(float *d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/** t = a·bᵀ over the head dim: `a` are 16 rows of a tile (those of this warp), `b` 2·R rows of another, the columns of t. */
template <int R>
INLINE void score_tile(float (&t)[R], u32 a, u32 b) {
  constexpr int COLUMNS = R * 2;
  const int lane = threadIdx.x & 31;
  a += (lane & 15) * PITCH + (lane >> 4) * 16;
  b += ((lane >> 4) * 8 + (lane & 7)) * PITCH + ((lane >> 3) & 1) * 16;
#pragma unroll
  for (int i = 0; i < R; i++) t[i] = 0;
#pragma unroll
  for (int k = 0; k < PADDED_DIM / 16; k++) {
    u32 left[4];
    load_matrices(left, a + k * 32);
#pragma unroll
    for (int n = 0; n < COLUMNS / 16; n++) {
      u32 right[4];
      load_matrices(right, b + n * 16 * PITCH + k * 32);
      multiply_add(t + 8 * n, left[0], left[1], left[2], left[3], right[0], right[1]);
      multiply_add(t + 8 * n + 4, left[0], left[1], left[2], left[3], right[2], right[3]);
    }
  }
}

/** t += p·b: p is a packed tile of 4·P columns, `b` as many rows of a tile; t is 2·R columns from the address of b on. */
template <int R, int P>
INLINE void add_product(float (&t)[R], const u32 (&p)[P], u32 b) {
  const int lane = threadIdx.x & 31;
  b += (lane & 15) * PITCH + (lane >> 4) * 16;
#pragma unroll
  for (int k = 0; k < P / 4; k++) {
#pragma unroll
    for (int n = 0; n < R / 8; n++) {
      u32 right[4];
      load_matrices_transposed(right, b + k * 16 * PITCH + n * 32);
      multiply_add(t + 8 * n, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], right[0], right[1]);
      multiply_add(t + 8 * n + 4, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], right[2], right[3]);
    }
  }
}

/** Two rows of a warp's tile as bf16; rows from `end` and columns from HEAD_DIM on stay out. `first` is the row of tile_row() 0. */
template <int R>
INLINE void store_tile(const float (&t)[R], u16 *target, i64 stride, int first, int end, int column, const float (&factor)[2]) {
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const int at = first + tile_row() + 8 * row;
    if (at >= end) continue;
#pragma unroll
    for (int i = 0; i < R / 4; i++) {
      const int d = column + 8 * i + tile_column();
      if (d < HEAD_DIM)
        *(u32 *)(target + at * stride + d) = pack_bf16(t[4 * i + 2 * row] * factor[row], t[4 * i + 2 * row + 1] * factor[row]);
    }
  }
}
