// What the attention kernels share: which rows see each other, and arithmetic on tiles of scores as mma.sync and wgmma hold
// them. Compiled with HEAD_DIM (D), PADDED_DIM (D in tiles: zeros up to it), SOFT_CAP (0 or 1) and PATH: SIMPLE, MMA or HOPPER.
//
// Everything causal, segmented and windowed is one interval for each row: query n sees keys lowest_key(n) .. n, and key j is
// seen by queries j .. query_end(j) − 1. Both bounds never decrease with the row, so a tile's range follows from its first and last row.

#define SIMPLE 0
#define MMA 1
#define HOPPER 2

#define INLINE __device__ __forceinline__
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
#define POSITIVE_INFINITY __int_as_float(0x7f800000)
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int most(int a, int b) { return a > b ? a : b; }

INLINE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
INLINE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** The segments of the batch on the device, `count` of them, and how far back a query sees. */
struct Segments {
  const int *starts;
  int count;
  int stride;  // elements between two starts
  i64 window;  // keys that a query sees at most, itself included

  INLINE int start(int segment) const { return starts[(i64)segment * stride]; }
  INLINE int end() const { return start(count); }

  /** The segment of a row before end(): the last one that starts at or before it. */
  INLINE int of(int row) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) >> 1;
      if (start(middle) <= row) low = middle;
      else high = middle;
    }
    return low;
  }
  /** First key that a query sees; row + 1 (none) in the padding. */
  INLINE int lowest_key(int row) const {
    if (row >= end()) return row + 1;
    return most(start(of(row)), row - (int)window + 1);
  }
  /** One past the last query that sees a key; the key itself (none) in the padding. */
  INLINE int query_end(int row) const {
    if (row >= end()) return row;
    return least(start(of(row) + 1), row + (int)window);
  }
};

/** Scores to units of log2, capped if SOFT_CAP: cap·tanh(scale·s/cap). tanh is exact to some 1e-7 (tanh.approx would be 5e-4). */
struct Scoring {
  float to_log2;   // scale·log2(e)
  float to_angle;  // 2·scale·log2(e)/cap
  float cap_log2;  // cap·log2(e)

  INLINE Scoring(float scale, float soft_cap)
      : to_log2(scale * LOG2_E), to_angle(2 * scale * LOG2_E / soft_cap), cap_log2(soft_cap * LOG2_E) {}
  INLINE float tanh_of(float s) const { return 1 - 2 * reciprocal(exp2_fast(s * to_angle) + 1); }
};

// A thread's part of a tile of sums: rows g and g + 8 of its warp's 16 (g = lane/4), columns 8i + 2(lane%4) + {0, 1}:
// t[4i], t[4i + 1] of the first row, t[4i + 2], t[4i + 3] of the second.

INLINE int tile_row() { return (threadIdx.x & 31) >> 2; }
INLINE int tile_column() { return (threadIdx.x & 3) * 2; }

/** Columns outside [low, high] of each row become −∞. `first` is the column that t[0] stands for. */
template <int R>
INLINE void mask_tile(float (&t)[R], int first, const int (&low)[2], const int (&high)[2]) {
#pragma unroll
  for (int i = 0; i < R; i++) {
    const int column = first + (i >> 2) * 8 + (i & 1), row = (i >> 1) & 1;
    if (column < low[row] || column > high[row]) t[i] = NEGATIVE_INFINITY;
  }
}

/** bf16 pairs of a tile as the left operand of the next product: 4 registers for each 16 columns. */
template <int R>
INLINE void pack_tile(const float (&t)[R], u32 (&packed)[R / 2]) {
#pragma unroll
  for (int i = 0; i < R / 2; i++) packed[i] = pack_bf16(t[2 * i], t[2 * i + 1]);
}

INLINE float quad_most(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
INLINE float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

/** The running softmax of two rows; `sum` holds this thread's columns only, until `finish`. */
struct Softmax {
  float largest[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY};
  float sum[2] = {0, 0};

  /** Raw scores to weights against the new largest score; `rescale` is the factor on what was summed before. */
  template <int R>
  INLINE void step(float (&t)[R], const Scoring &scoring, float (&rescale)[2]) {
#if SOFT_CAP
#pragma unroll
    for (int i = 0; i < R; i++)
      if (t[i] != NEGATIVE_INFINITY) t[i] = scoring.cap_log2 * scoring.tanh_of(t[i]);
    const float unit = 1;
#else
    const float unit = scoring.to_log2;
#endif
    float shift[2];
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float top = largest[row];
#pragma unroll
      for (int i = 0; i < R; i += 4) top = fmaxf(top, fmaxf(t[i + 2 * row], t[i + 2 * row + 1]));
      top = quad_most(top);
      shift[row] = top == NEGATIVE_INFINITY ? 0 : top * unit;  // a row that has seen nothing yet
      rescale[row] = exp2_fast(largest[row] * unit - shift[row]);
      largest[row] = top;
      sum[row] *= rescale[row];
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
      const int row = (i >> 1) & 1;
      t[i] = exp2_fast(t[i] * unit - shift[row]);
      sum[row] += t[i];
    }
  }

  /** Factor on the weighted sum of values, and the log-sum-exp in natural units; both 0 for a row that saw nothing. */
  INLINE void finish(const Scoring &scoring, float (&factor)[2], float (&lse)[2]) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const float total = quad_sum(sum[row]);
#if SOFT_CAP
      const float shift = largest[row];
#else
      const float shift = largest[row] * scoring.to_log2;
#endif
      factor[row] = total > 0 ? 1 / total : 0;
      lse[row] = total > 0 ? (shift + log2f(total)) * LN_2 : 0;
    }
  }
};
