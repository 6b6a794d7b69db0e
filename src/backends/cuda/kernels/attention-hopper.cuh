// Tiles by the tensor copy engine and products by wgmma: the path of sm_90a. A tile of ROWS rows is stored as chunks of 64 columns, each
// ROWS rows of 128 bytes with the 128-byte swizzle (16-byte piece p of row r lies at p ^ (r mod 8)), as TMA writes and wgmma reads it.
// Columns from HEAD_DIM to the end of the last chunk are filled with zeros by the copy engine.

struct __align__(64) TensorMap { u64 words[16]; };  // CUtensorMap of [rows, heads, HEAD_DIM], boxes of 64 columns

#define CHUNKS ((PADDED_DIM + 63) / 64)

__device__ constexpr u32 tile_bytes(int rows) { return rows * CHUNKS * 128; }
INLINE u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }
INLINE u32 aligned_shared(const void *pointer) { return (shared_address(pointer) + 1023) & ~1023u; }

/** Which tile of which head a block works on: `heads_at_once` heads run together, so that their keys and values stay in the L2 cache. */
struct TileOfHead { int tile, head; };
INLINE TileOfHead tile_of_head(int block, int tiles, int heads, int heads_at_once) {
  const int section = block / (tiles * heads_at_once), inside = block - section * tiles * heads_at_once;
  const int width = least(heads_at_once, heads - section * heads_at_once);
  return {inside / width, section * heads_at_once + inside % width};
}

template <int COUNT>
INLINE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT>
INLINE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }

// ---- barriers of shared memory

INLINE void init_barrier(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
INLINE void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
INLINE void expect_bytes(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
INLINE void arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
INLINE void await_barrier(u32 barrier, int phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier), "r"(phase)
      : "memory");
}

/** A place in a ring of stages; `phase` flips at each turn. */
template <int PLACES>
struct Ring {
  int at = 0, phase = 0;
  INLINE void next() {
    if (++at == PLACES) at = 0, phase ^= 1;
  }
  INLINE u32 of(u32 barriers) const { return barriers + 8 * at; }
};

// ---- copies

INLINE void load_box(u32 target, const TensorMap &map, u32 barrier, int column, int head, int row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(target),
      "l"(&map), "r"(barrier), "r"(column), "r"(head), "r"(row)
      : "memory");
}
/** A tile of ROWS rows by boxes of BOX rows. */
template <int ROWS, int BOX>
INLINE void load_tiles(u32 tile, const TensorMap &map, u32 barrier, int head, int row) {
#pragma unroll
  for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
    for (int part = 0; part < ROWS; part += BOX)
      load_box(tile + (chunk * ROWS + part) * 128, map, barrier, chunk * 64, head, row + part);
}
INLINE void load_floats(u32 target, const float *source, int count, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target), "l"(source),
               "r"(count * 4), "r"(barrier)
               : "memory");
}

// ---- products

#define REGS8(d, i) "+f"((d)[i]), "+f"((d)[i + 1]), "+f"((d)[i + 2]), "+f"((d)[i + 3]), "+f"((d)[i + 4]), "+f"((d)[i + 5]), "+f"((d)[i + 6]), "+f"((d)[i + 7])
#define REGS16(d, i) REGS8(d, i), REGS8(d, i + 8)
#define REGS32(d, i) REGS16(d, i), REGS16(d, i + 16)
#define REGS64(d, i) REGS32(d, i), REGS32(d, i + 32)
#define NAMES0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES32 "%32, %33, %34, %35, %36, %37, %38, %39"
#define NAMES40 "%40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES48 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES64 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define NAMES80 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES96 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define NAMES112 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define LIST32 NAMES0 ", " NAMES16
#define LIST40 LIST32 ", " NAMES32
#define LIST48 LIST40 ", " NAMES40
#define LIST64 LIST48 ", " NAMES48
#define LIST128 LIST64 ", " NAMES64 ", " NAMES80 ", " NAMES96 ", " NAMES112

// multiply(d, …): d += a·b, or d = a·b where `add` is 0; d is 64 × N. TRANSPOSED: b's columns, not its depth, are contiguous.
// R = N/2 registers; P0.. are the numbers of the operands behind them.
#define DEFINE_MULTIPLY(N, R, LIST, OPERANDS, P0, P1, P2, P3, P4, P5, P6)                                                    \
  template <int TRANSPOSED>                                                                                              \
  INLINE void multiply(float (&d)[R], u64 a, u64 b, int add) {                                                           \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" P2 ", 0;\n"                                                         \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, %" P0 ", %" P1 ", add, 1, 1, 0, %" P3 ";\n}\n" \
                 : OPERANDS                                                                                              \
                 : "l"(a), "l"(b), "r"(add), "n"(TRANSPOSED));                                                           \
  }                                                                                                                      \
  template <int TRANSPOSED>                                                                                              \
  INLINE void multiply(float (&d)[R], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int add) {                                  \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" P5 ", 0;\n"                                                         \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, {%" P0 ", %" P1 ", %" P2 ", %" P3 "}, %" P4 ", add, 1, 1, %" P6 ";\n}\n" \
                 : OPERANDS                                                                                              \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add), "n"(TRANSPOSED));                               \
  }
#define COMMA ,
DEFINE_MULTIPLY(64, 32, LIST32, REGS32(d, 0), "32", "33", "34", "35", "36", "37", "38")
DEFINE_MULTIPLY(80, 40, LIST40, REGS32(d, 0) COMMA REGS8(d, 32), "40", "41", "42", "43", "44", "45", "46")
DEFINE_MULTIPLY(96, 48, LIST48, REGS32(d, 0) COMMA REGS16(d, 32), "48", "49", "50", "51", "52", "53", "54")
DEFINE_MULTIPLY(128, 64, LIST64, REGS64(d, 0), "64", "65", "66", "67", "68", "69", "70")
DEFINE_MULTIPLY(256, 128, LIST128, REGS64(d, 0) COMMA REGS64(d, 64), "128", "129", "130", "131", "132", "133", "134")

INLINE void open_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
INLINE void await_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
/** Keeps the compiler from moving uses of sums across the wait for them. */
template <int R>
INLINE void pin(float (&d)[R]) {
#pragma unroll
  for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/** Operand in shared memory, 128-byte swizzle. `leading` is the distance of 64-column chunks where columns are contiguous in the product's width. */
INLINE u64 operand(u32 address, u32 leading) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

/** t = a·bᵀ over the head dim, committed: `a` is a row of a tile of A_ROWS rows (64 are used), `b` a tile of B_ROWS rows. */
template <int A_ROWS, int B_ROWS, int R>
INLINE void score_tiles(float (&t)[R], u32 a, u32 b) {
  static_assert(R * 2 == B_ROWS, "a column for each row of b");
  open_products();
#pragma unroll
  for (int k = 0; k < PADDED_DIM / 16; k++) {
    const u32 inside = (k & 3) * 32;
    multiply<0>(t, operand(a + (k >> 2) * A_ROWS * 128 + inside, 16), operand(b + (k >> 2) * B_ROWS * 128 + inside, 16), k > 0);
  }
  commit_products();
}
/** t += p·b, committed: p is packed from 64 × ROWS, b a tile of ROWS rows from its first column or chunk of columns on. */
template <int ROWS, int R, int P>
INLINE void add_tiles(float (&t)[R], const u32 (&p)[P], u32 b) {
  static_assert(P * 4 == ROWS, "a column of p for each row of b");
  open_products();
#pragma unroll
  for (int k = 0; k < ROWS / 16; k++)
    multiply<1>(t, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], operand(b + k * 2048, ROWS * 128), 1);
  commit_products();
}

/** A warpgroup's 64 rows as bf16, through `tile` (its rows of a tile of ROWS rows that nobody reads any more). */
template <int ROWS, int R>
INLINE void store_tiles(const float (&t)[R], u32 tile, const TensorMap &map, int head, int row, int column, const float (&factor)[2],
                       int named) {
  const int g = ((threadIdx.x >> 5) & 3) * 16 + tile_row(), lane = threadIdx.x & 3;
#pragma unroll
  for (int i = 0; i < R / 2; i++) {
    const int column8 = i >> 1, r = g + 8 * (i & 1), piece = (column8 & 7) ^ (r & 7);
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(tile + (column8 >> 3) * ROWS * 128 + r * 128 + piece * 16 + lane * 4),
                 "r"(pack_bf16(t[2 * i] * factor[i & 1], t[2 * i + 1] * factor[i & 1]))
                 : "memory");
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  asm volatile("bar.sync %0, 128;" ::"r"(named) : "memory");
  if (threadIdx.x % 128 == 0) {
#pragma unroll
    for (int chunk = 0; chunk < (R * 2 + 63) / 64; chunk++)
      asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
                   "r"(tile + chunk * ROWS * 128), "r"(column + chunk * 64), "r"(head), "r"(row)
                   : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
