// Products of a few rows (decoding): one pass over each right operand, block by block in registers (registers.h), multiplied
// with every row of x at once. Bound by reading: its bytes must move once, in order and without pauses. So both stages of
// adapted linears are one call of the pool, and each thread has a stretch of neighbouring columns of its own (Stretches): first
// of t = s·x·Aᵀ, then of the outputs, whose x·Wᵀ it sums up before it waits for the rest of t, asking for its part of B
// meanwhile. Whose columns they are may depend on threads: every output element is one fixed sequence of additions whatever
// shares its stretch. Each thread lays x out once per call and order.
#pragma once
#include "gemm.h"
#include "registers.h"

namespace qdl {
namespace QDL_ISA {

/** What a core's first cache holds at least. */
constexpr int64_t L1_BYTES = 32768;
constexpr int64_t SHORT_COLS = 256;  // that are summed up together at most
/** A stretch is a multiple of this many columns: whole cache lines, so that no two threads write the same one. */
constexpr int64_t SHORT_GRAIN = 32;
/** Pieces of a stretch: what is left of one when a thread has done its own is shared. */
constexpr int64_t SHORT_PIECES = 4;
constexpr int SHORT_STRETCHES = 64;  // at most

/** A thread's workspace, as short products use it. */
struct ShortSpace {
  Workspace::Key key;
  alignas(64) float sums[SHORT_ROWS][SHORT_COLS];
  alignas(64) uint32_t x[WORKSPACE_BYTES / 4 - SHORT_ROWS * SHORT_COLS - 32];
};
static_assert(sizeof(ShortSpace) <= WORKSPACE_BYTES, "the workspace must hold a short product");

/** Rank and scale of each row. */
struct RowRanks {
  int64_t rank[SHORT_ROWS], largest;
  float scale[SHORT_ROWS];
  RowRanks(const Ranges& ranges, int64_t row0, int64_t rows) : largest(0) {
    for (int64_t i = 0; i < rows; i++) {
      const int64_t r = rangeAt(ranges, row0 + i);
      rank[i] = r < ranges.count ? rankOf(ranges, r) : 0;
      scale[i] = r < ranges.count ? static_cast<float>(ranges.list[r].scale) : 0;
      largest = most(largest, rank[i]);
    }
  }
};

/**
 * The columns of some products side by side, cut into a stretch per thread. A thread takes its own piece by piece, in the order
 * of memory, since what it reads is asked for ahead; then it helps with the others.
 */
class Stretches {
 public:
  Stretches(const Product* products, int count, int64_t grain, int threads)
      : products_(products), count_(count), grain_(grain), stretches_(least(threads, SHORT_STRETCHES)) {
    for (int i = 0; i < count; i++) units_ += ceilDiv(products[i].out.cols, grain);
    piece_ = most(1, least(SHORT_COLS / grain, ceilDiv(ceilDiv(units_, stretches_), SHORT_PIECES)));
    for (int i = 0; i < stretches_; i++) taken_[i].until = start(i);
  }
  int64_t units() const { return units_; }

  /** Calls function(product, col, cols) for pieces that nobody has taken, `own` first, and done(units) behind each piece. */
  template <class Function, class Done>
  QDL_INLINE_MEMBER void take(int64_t own, const Function& function, const Done& done) {
    for (int i = 0; i < stretches_; i++) {
      const int64_t stretch = (own + i) % stretches_, end = start(stretch + 1);
      for (int64_t from; (from = __atomic_fetch_add(&taken_[stretch].until, piece_, __ATOMIC_RELAXED)) < end;) {
        const int64_t to = least(from + piece_, end);
        each(from, to, function);
        done(to - from);
      }
    }
  }

  /** Columns of one product, null behind the last. */
  struct Columns {
    const Product* product;
    int64_t col, cols;
  };
  /** Where a stretch begins. */
  QDL_INLINE_MEMBER Columns first(int64_t own) const {
    const int64_t from = start(own % stretches_);
    Columns found = {};
    each(from, least(from + piece_, start(own % stretches_ + 1)), [&](const Product& p, int64_t col, int cols) {
      if (!found.product) found = {&p, col, cols};
    });
    return found;
  }

 private:
  struct alignas(64) Taken {
    int64_t until;
  };
  const Product* products_;
  int count_;
  int64_t grain_, stretches_, units_ = 0, piece_;
  Taken taken_[SHORT_STRETCHES];

  int64_t start(int64_t stretch) const { return units_ * stretch / stretches_; }
  template <class Function>
  QDL_INLINE_MEMBER void each(int64_t from, int64_t to, const Function& function) const {
    int64_t before = 0;
    for (int i = 0; i < count_; i++) {
      const int64_t cols = products_[i].out.cols, units = ceilDiv(cols, grain_);
      const int64_t col = most(0, from - before) * grain_, end = least(cols, (to - before) * grain_);
      if (col < end) function(products_[i], col, static_cast<int>(end - col));
      before += units;
    }
  }
};

/** A call for rows row0..row0+rows−1. */
struct ShortCall {
  int64_t row0;
  int rows;
  const RowRanks& ranks;
  uint64_t call;
  /** t of each linear with an adapter: one base term, columns 0..rank−1 of each row. */
  Stretches& narrow;
  Stretches& wide;
  /** Units of t that are done. */
  int64_t* ready;
};

/** Whether they can be computed here. */
template <class C>
QDL_INLINE bool isShort(const Product* products, int count, int64_t rows) {
  if (rows > SHORT_ROWS) return false;
  for (int i = 0; i < count; i++) {
    const Product& p = products[i];
    if (p.bases != 1 || p.base[0].columns || p.rankeds > 1) return false;
    if (rows * roundUp(p.base[0].depth, BLOCK) * sizeof(typename C::E) > sizeof(ShortSpace::x)) return false;
  }
  return true;
}

/** x as E, [block][row][64], in the order in which the right operand's values come. */
template <class C>
static const typename C::E* laidOut(ShortSpace& space, const Term& base, int64_t row0, int64_t rows, uint64_t call) {
  typedef typename C::E E;
  E* out = reinterpret_cast<E*>(space.x);
  const bool coded = isCoded(base.right, base.depth);
  const Workspace::Key key = {call, static_cast<int64_t>(reinterpret_cast<uintptr_t>(base.left.data)), coded};
  if (space.key.call == key.call && space.key.panel == key.panel && space.key.range == key.range) return out;
  space.key = key;
  const Source left = sourceOf(base.left, false);
  E* to = out;
  for (int64_t k = 0; k < base.depth; k += BLOCK)
    for (int64_t i = 0; i < rows; i++, to += BLOCK) {
      const int64_t n = least(BLOCK, base.depth - k);
      for (int64_t j = n; j < BLOCK; j++) to[j] = 0;
      run(left, row0 + i, k, static_cast<int>(n), to);
      if (coded) putInOrder<C>(to);
    }
  return out;
}

/** sums[i][j] = x_i · (row col+j of the right operand). */
template <class C, int R>
static __attribute__((noinline)) void shortSums(const Term& base, const typename C::E* x, int64_t col, int cols, Ahead ahead,
                                                float (*sums)[SHORT_COLS]) {
  const Runs<C> rest = {base.right, base.depth};
  withRight<C>(base.right, base.depth, [&](auto right, int64_t whole) {
    constexpr bool CODED = decltype(right)::CODED;
    int j = 0;
    const auto together = [&](auto count) __attribute__((always_inline)) {
      constexpr int J = decltype(count)::value;
      for (; j + J <= cols; j += J) {
        ahead.step(J);
        dots<C, R, J>(right, whole, rest, col + j, x, sums[0] + j, SHORT_COLS);
      }
    };
    constexpr int JOIN = JOINED<C, R, CODED>, DEEP = JOINED_DEEP<C, R, CODED>;
    if constexpr (DEEP > JOIN)
      if (R * base.depth * static_cast<int64_t>(sizeof *x) > L1_BYTES) together(Count<DEEP>{});
    if constexpr (JOIN > 1) together(Count<JOIN>{});
    together(Count<1>{});
  });
}

template <class C>
static void shortSums(int rows, const Term& base, const typename C::E* x, int64_t col, int cols, const Ahead& ahead,
                      float (*sums)[SHORT_COLS]) {
  typedef void (*Sums)(const Term&, const typename C::E*, int64_t, int, Ahead, float (*)[SHORT_COLS]);
  static const Sums SUMS[SHORT_ROWS] = {shortSums<C, 1>, shortSums<C, 2>, shortSums<C, 3>, shortSums<C, 4>,
                                        shortSums<C, 5>, shortSums<C, 6>, shortSums<C, 7>, shortSums<C, 8>};
  SUMS[rows - 1](base, x, col, cols, ahead, sums);
}

/** sums += Σ_k left[row, k]·right[k, col…], k in order: a few rows of the right operand at a time, along their columns. */
static void addRankedPart(const Term& term, int64_t row, int64_t rank, int64_t col, int cols, float* sums) {
  constexpr int TOGETHER = 4;
  const Source& s = term.right;
  const auto add = [&](auto count, int64_t k, const auto& valuesAt, int from, int to) __attribute__((always_inline)) {
    constexpr int COUNT = decltype(count)::value;
    vf factors[COUNT];
    for (int i = 0; i < COUNT; i++) factors[i] = splat(readOne(term.left, row, k + i));
    for (int j = from; j < to; j += LANES) {
      vf total = load<vf>(sums + j);
      for (int i = 0; i < COUNT; i++) total = fma(factors[i], Vectors<ComputeF32>::at(valuesAt(k + i, j)), total);
      store(sums + j, total);
    }
  };
  const auto all = [&](const auto& valuesAt, int from, int to) __attribute__((always_inline)) {
    int64_t k = 0;
    for (; k + TOGETHER <= rank; k += TOGETHER) add(Count<TOGETHER>{}, k, valuesAt, from, to);
    for (; k < rank; k++) add(Count<1>{}, k, valuesAt, from, to);
  };
  const int whole = s.round ? 0 : cols / LANES * LANES;
  if (s.dtype == BF16)
    all([&](int64_t k, int j) { return at<uint16_t>(s.values, k, col + j); }, 0, whole);
  else
    all([&](int64_t k, int j) { return at<float>(s.values, k, col + j); }, 0, whole);
  // What is to be rounded, and a row's end, by way of memory.
  for (int j = whole; j < cols; j += LANES)
    for (int64_t k = 0; k < rank; k++) {
      alignas(64) float values[LANES] = {};
      run(s, k, col + j, static_cast<int>(least(LANES, cols - j)), values);
      add(Count<1>{}, k, [&](int64_t, int) { return values; }, j, j + LANES);
    }
}

/** Some columns of t: t_i = s_i·x_i·Aᵀ, for each row as far as its rank goes. */
template <class C>
static void narrowPiece(ShortSpace& space, const ShortCall& c, const Product& p, int64_t col, int cols, const Ahead& next) {
  const typename C::E* x = laidOut<C>(space, p.base[0], c.row0, c.rows, c.call);
  shortSums<C>(c.rows, p.base[0], x, col, cols, next, space.sums);
  for (int i = 0; i < c.rows; i++) {
    const int64_t n = least(cols, c.ranks.rank[i] - col);
    if (n <= 0) continue;
    float* sums = space.sums[i];
    for (int64_t j = 0; j < n; j++) sums[j] *= c.ranks.scale[i];
    if (p.out.dtype == BF16)
      rounded(sums, n, at<uint16_t>(p.out, c.row0 + i, col));
    else
      copyRun(sums, n, at<float>(p.out, c.row0 + i, col));
  }
}

/** Some columns of an output. */
template <class C>
static void widePiece(ShortSpace& space, const ShortCall& c, const Product& p, int64_t col, int cols) {
  const typename C::E* x = laidOut<C>(space, p.base[0], c.row0, c.rows, c.call);
  const int64_t rank = p.rankeds == 0 ? 0 : c.ranks.largest;
  const Ahead ahead = rank > 0 ? Ahead(p.ranked[0].right.values, rank, col, cols, cols) : Ahead();
  shortSums<C>(c.rows, p.base[0], x, col, cols, ahead, space.sums);
  if (rank > 0) {
    poolWait(c.ready, c.narrow.units());
    for (int i = 0; i < c.rows; i++) addRankedPart(p.ranked[0], c.row0 + i, c.ranks.rank[i], col, cols, space.sums[i]);
  }
  for (int part = 0; part < cols; part += TILE_COLS) {
    const Strip strip = {col + part, static_cast<int>(least(TILE_COLS, cols - part)), 0, 0};
    const Write write(p, strip);
    for (int i = 0; i < c.rows; i++) write(c.row0 + i, space.sums[i] + part);
  }
}

/** The first bytes that these columns are computed from, asked for in `steps` steps; nothing if there are none. */
QDL_INLINE Ahead firstBytes(const Stretches::Columns& columns, int64_t steps) {
  if (!columns.product) return Ahead();
  const Term& term = columns.product->base[0];
  const Source& s = term.right;
  const int64_t pitch = s.format == DENSE ? address(s.values, 1, 0) - address(s.values, 0, 0) : term.depth / 2;
  const Tensor bytes = {s.values.data + columns.col * pitch, 1, FAR_BYTES, FAR_BYTES, U8};
  return Ahead(bytes, 1, 0, least(FAR_BYTES, columns.cols * pitch), steps);
}

/** `wide`, after the products that make the left operands of its ranked terms. */
template <class C>
static void multiplyShort(Context& context, const Product* narrow, int narrows, const Product* wide, int wides, int64_t row0,
                          int64_t row1, const Ranges& ranges) {
  const RowRanks ranks(ranges, row0, row1 - row0);
  Stretches narrowCols(narrow, narrows, SHORT_GRAIN / 4, context.threads), wideCols(wide, wides, SHORT_GRAIN, context.threads);
  int64_t ready = 0;
  const ShortCall c = {row0, static_cast<int>(row1 - row0), ranks, ++context.sequence, narrowCols, wideCols, &ready};
  auto item = [&](int64_t i, int thread) {
    ShortSpace& space = *reinterpret_cast<ShortSpace*>(context.workspaces[thread]);
    // What comes behind this thread's part of t is asked for with it.
    Stretches::Columns next = c.wide.first(i);
    c.narrow.take(
        i,
        [&](const Product& p, int64_t col, int cols) {
          narrowPiece<C>(space, c, p, col, cols, firstBytes(next, cols));
          next = {};
        },
        [&](int64_t units) { __atomic_fetch_add(c.ready, units, __ATOMIC_RELEASE); });
    c.wide.take(i, [&](const Product& p, int64_t col, int cols) { widePiece<C>(space, c, p, col, cols); }, [](int64_t) {});
  };
  parallel(context, context.threads, item);
}

/** The product core's entry: many rows by panels, few rows by dot products. */
template <class C>
static void product(Context& context, const Product* products, int count, int64_t row0, int64_t row1, const Ranges& ranges) {
  if (row1 <= row0 || count == 0) return;
  if (isShort<C>(products, count, row1 - row0))
    multiplyShort<C>(context, nullptr, 0, products, count, row0, row1, ranges);
  else
    multiply<C>(context, products, count, row0, row1, ranges);
}

}  // namespace QDL_ISA
}  // namespace qdl
