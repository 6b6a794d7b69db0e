// The product core: out = scale·Σ_terms left·right (+ bias), in f32, rounded once. A frozen weight and its adapter are two
// terms of one sum, so the rank-b part costs b more steps of depth and no extra pass over y; dX adds up several weights
// the same way.
//
// A work item owns one panel of columns and all rows, or a block of them: it decodes the panel into its thread's workspace
// (L2) and runs register tiles over the rows. Only the last few panels are shared by threads, to end together, so a weight
// is decoded about once. Bytes that must move: every right operand once, the left operand once per panel (from L2/L3), the
// output once.
// Every output element is one fixed sequence of additions, whoever computes it: bits do not depend on threads.
#pragma once
#include "tile.h"

namespace qdl {
namespace QDL_ISA {

constexpr int MAX_TERMS = 4;
constexpr int64_t PANEL_WORDS = 1088 * 64;  // 272 KiB of L2: 2048 + 128 bf16 in depth for the widest tile
constexpr int64_t STAGE_DEPTH = 2176;       // elements: bounds the converted left rows, 51 KiB
constexpr int64_t BLOCK_ROWS = 1026;        // whole tiles; their sums take 256 KiB of L2
constexpr int64_t SHORT_ROWS = 8;      // at most so many rows go through short.h

/** left[rows, depth] times `right`, which is read along its rows (x·Wᵀ) or down its columns (dY·W). */
struct Term {
  Tensor left;
  Source right;
  bool columns;
  int64_t depth;
};

struct Product {
  Term base[MAX_TERMS];
  int bases;
  /** Terms whose depth is the rank of the row's range. */
  Term ranked[MAX_TERMS];
  int rankeds;
  Tensor out;
  Tensor bias;  // [1, cols] or null
  float scale;
  bool accumulate;
};

QDL_INLINE int64_t fromOf(const Ranges& ranges, int64_t r) { return static_cast<int64_t>(ranges.list[r].from); }
QDL_INLINE int64_t toOf(const Ranges& ranges, int64_t r) { return static_cast<int64_t>(ranges.list[r].to); }
QDL_INLINE int64_t rankOf(const Ranges& ranges, int64_t r) { return static_cast<int64_t>(ranges.list[r].rank); }
QDL_INLINE int64_t largestRank(const Ranges& ranges) {
  int64_t largest = 0;
  for (int64_t r = 0; r < ranges.count; r++) largest = most(largest, rankOf(ranges, r));
  return largest;
}
/** The range that holds a row. */
QDL_INLINE int64_t rangeAt(const Ranges& ranges, int64_t row) {
  int64_t r = 0;
  while (r < ranges.count && toOf(ranges, r) <= row) r++;
  return r;
}

QDL_INLINE void addBase(Product& p, const Tensor& left, const Source& right, bool columns, int64_t depth) {
  p.base[p.bases++] = {left, right, columns, depth};
}
QDL_INLINE void addRanked(Product& p, const Tensor& left, const Source& right, bool columns) {
  p.ranked[p.rankeds++] = {left, right, columns, 0};
}
QDL_INLINE Product productInto(const Tensor& out) {
  Product p = {};
  p.out = out;
  p.scale = 1;
  return p;
}

/** A thread's workspace, as products use it. */
struct Workspace {
  /** What the panel holds: product number, panel, range. */
  struct Key {
    uint64_t call;
    int64_t panel, range;
  } key;
  alignas(64) uint32_t panel[PANEL_WORDS];
  float sums[BLOCK_ROWS * TILE_COLS];
  uint32_t left[TILE_ROWS * (STAGE_DEPTH + 2 * MAX_TERMS)];
  uint32_t staging[LANES * PACK_WORDS];
};
static_assert(sizeof(Workspace) <= WORKSPACE_BYTES, "the workspace must hold a product");

QDL_INLINE Workspace& workspaceOf(Context& context, int thread) {
  return *reinterpret_cast<Workspace*>(context.workspaces[thread]);
}

/** The columns that one work item owns. */
struct Strip {
  int64_t col;
  int cols, vectors, width;
};

/** What happens to a finished row of sums: scaled, bias added, added to what is there if the product says so, rounded once. */
class Write {
 public:
  Write(const Product& product, const Strip& strip) : p_(product), strip_(strip) {
    memset(bias_, 0, sizeof bias_);
    if (!p_.bias.data) return;
    float buffer[TILE_COLS];
    memcpy(bias_, read(p_.bias, 0, strip.col, strip.cols, buffer), strip.cols * 4);
  }
  /** Before the rows are computed. */
  QDL_INLINE_MEMBER void ahead(int64_t row, int rows) const { askToWrite(p_.out, row, rows, strip_.col, strip_.cols); }
  QDL_INLINE_MEMBER void operator()(int64_t row, const float* sums) const {
    alignas(64) float value[TILE_COLS];
    for (int j = 0; j < TILE_COLS; j += LANES) store(value + j, fma(load<vf>(sums + j), splat(p_.scale), load<vf>(bias_ + j)));
    if (p_.accumulate) {
      float old[TILE_COLS];
      const float* before = read(p_.out, row, strip_.col, strip_.cols, old);
      for (int j = 0; j < strip_.cols; j++) value[j] += before[j];
    }
    if (p_.out.dtype == BF16)
      rounded(value, strip_.cols, at<uint16_t>(p_.out, row, strip_.col));
    else
      copyRun(value, strip_.cols, at<float>(p_.out, row, strip_.col));
  }

 private:
  const Product& p_;
  const Strip& strip_;
  alignas(64) float bias_[TILE_COLS];
};

/** The part of one term that a stage holds, from word `at` on of each column of its panel. */
struct Slice {
  const Term* term;
  int64_t from, depth, at;
};

/** Where in its terms a sweep has come. */
struct Position {
  int term;
  int64_t from;
};

/** The slices of one stage of at most `words` words of depth; `position` moves behind it. Returns how many there are. */
template <class C>
static int takeStage(const Term* const* terms, const int64_t* depths, int count, int64_t words, Position& position, Slice* slices) {
  int taken = 0;
  for (int64_t used = 0; position.term < count && used < words;) {
    const int64_t depth = least(depths[position.term] - position.from, (words - used) * C::PAIR);
    if (depth > 0) slices[taken++] = {terms[position.term], position.from, depth, used};
    used += steps(depth, C::PAIR);
    position.from += depth;
    if (position.from == depths[position.term]) position = {position.term + 1, 0};
  }
  while (position.term < count && depths[position.term] == 0) position.term++;
  return taken;
}

/** What the panel of a slice is made of, asked for in `steps` steps. */
QDL_INLINE Ahead askFor(const Slice& slice, const Strip& strip, int64_t steps) {
  const Source& right = slice.term->right;
  const bool down = slice.term->columns, coded = right.format != DENSE;
  const int64_t perByte = coded ? 2 : 1;
  const int64_t row = down ? slice.from : strip.col, rows = down ? slice.depth : strip.cols;
  const int64_t col = down ? strip.col : slice.from, cols = down ? strip.cols : slice.depth;
  Tensor values = right.values;
  if (coded) values.stride = right.cols / perByte, values.dtype = U8;
  values.data = address(values, row, 0);
  return Ahead(values, rows, col / perByte, cols / perByte, steps);
}

/** Rows of a slice's left operand as E: in place if they are E already, else converted. */
template <class C>
QDL_INLINE Piece<C> pieceOf(const Slice& slice, const uint32_t* panel, int64_t width, int64_t row, int rows, uint32_t*& buffer) {
  typedef typename C::E E;
  const Tensor& left = slice.term->left;
  if (left.dtype == (C::PAIR == 1 ? F32 : BF16)) return {at<E>(left, row, slice.from), left.stride, slice.depth, panel, width};
  const int64_t words = steps(slice.depth, C::PAIR);
  E* copy = reinterpret_cast<E*>(buffer);
  for (int i = 0; i < rows; i++) {
    E* to = reinterpret_cast<E*>(buffer + i * words);
    if constexpr (C::PAIR == 1)
      widen(at<uint16_t>(left, row + i, slice.from), slice.depth, to);
    else
      narrow(at<float>(left, row + i, slice.from), slice.depth, to);
  }
  buffer += rows * words;
  return {copy, words * C::PAIR, slice.depth, panel, width};
}

/** Rows of the next tile: few rows at the end are shared by the last two, since a flat tile is bound by its loads. */
template <class C>
QDL_INLINE int tileRows(int64_t left) {
  if (left <= TILE_ROWS || left >= 2 * TILE_ROWS) return static_cast<int>(least(TILE_ROWS, left));
  return static_cast<int>(roundUp(ceilDiv(left, 2), C::SUM_ROWS));
}

/**
 * Rows row0..row1−1 of one strip: sums over `terms`; `fresh` starts from zero, `last` hands rows to `finish`. While a stage is
 * multiplied, what the next one decodes is asked for; after the last one comes `next`, the thread's next strip of the same
 * terms, if it has one.
 */
template <class C, class Finish>
static void sweep(Workspace& w, const Strip& strip, const Strip* next, const Finish& finish, const Term* const* terms,
                  const int64_t* depths, int count, int64_t row0, int64_t row1, float* sums, bool fresh, bool last,
                  const Workspace::Key& key) {
  int64_t total = 0;
  for (int i = 0; i < count; i++) total += steps(depths[i], C::PAIR);
  const int64_t capacity = least(PANEL_WORDS / strip.width, STAGE_DEPTH / C::PAIR);
  const int64_t stages = most(1, ceilDiv(total, capacity));
  // Equal stages, cut at whole quantisation blocks where that fits.
  const int64_t stageWords = least(capacity, roundUp(ceilDiv(total, stages), BLOCK / C::PAIR));
  const bool kept = w.key.call == key.call && w.key.panel == key.panel && w.key.range == key.range;
  w.key.call = 0;
  Slice slices[2 * MAX_TERMS];
  Position position = {}, start = {};
  int sliceCount = takeStage<C>(terms, depths, count, stageWords, position, slices);
  for (bool first = true, end = false; !end; first = false) {
    end = position.term == count;
    for (int i = 0; i < sliceCount && !(kept && first); i++) {
      const Slice& slice = slices[i];
      uint32_t* panel = w.panel + slice.at * strip.width;
      const int depth = static_cast<int>(slice.depth);
      if (slice.term->columns)
        packCols<C>(slice.term->right, slice.from, depth, strip.col, strip.cols, strip.width, panel);
      else
        packRows<C>(slice.term->right, slice.from, depth, strip.col, strip.cols, strip.width, panel, w.staging);
    }
    if (end && first) w.key = key;
    Slice following[2 * MAX_TERMS];
    Ahead ahead[2 * MAX_TERMS];
    const Strip* nextStrip = end ? next : &strip;
    const int followingCount = nextStrip ? takeStage<C>(terms, depths, count, stageWords, end ? start : position, following) : 0;
    for (int i = 0; i < followingCount; i++) ahead[i] = askFor(following[i], *nextStrip, ceilDiv(row1 - row0, TILE_ROWS));
    for (int64_t row = row0; row < row1;) {
      const int rows = tileRows<C>(row1 - row);
      for (int i = 0; i < followingCount; i++) ahead[i].step();
      Piece<C> pieces[2 * MAX_TERMS];
      uint32_t* buffer = w.left;
      for (int i = 0; i < sliceCount; i++) {
        const uint32_t* panel = w.panel + slices[i].at * strip.width;
        pieces[i] = pieceOf<C>(slices[i], panel, strip.width, row, rows, buffer);
      }
      // One stage alone needs no memory of sums between stages: its tile goes through the first rows' place, in L1.
      float* out = sums + (first && end && fresh && last ? 0 : (row - row0) * TILE_COLS);
      if (end && last) finish.ahead(row, rows);
      runTile<C>(rows, strip.vectors, pieces, sliceCount, out, TILE_COLS, !(first && fresh));
      if (end && last)
        for (int i = 0; i < rows; i++) finish(row + i, out + i * TILE_COLS);
      row += rows;
    }
    memcpy(slices, following, sizeof slices);
    sliceCount = followingCount;
  }
}

template <class C, class Finish>
static void multiplyBlock(Workspace& w, const Product& p, const Ranges& ranges, int64_t row0, int64_t row1, const Strip& strip,
                          const Strip* next, const Finish& finish, Workspace::Key key) {
  const Term* terms[2 * MAX_TERMS];
  int64_t depths[2 * MAX_TERMS];
  for (int i = 0; i < p.bases; i++) terms[i] = &p.base[i], depths[i] = p.base[i].depth;
  int64_t r = rangeAt(ranges, row0);
  const bool ranked = p.rankeds > 0 && r < ranges.count;
  if (!ranked || toOf(ranges, r) >= row1) {
    int count = p.bases;
    for (int i = 0; ranked && i < p.rankeds; i++) terms[count] = &p.ranked[i], depths[count++] = rankOf(ranges, r);
    key.range = ranked ? r : 0;
    sweep<C>(w, strip, next, finish, terms, depths, count, row0, row1, w.sums, true, true, key);
    return;
  }
  // The block spans several ranks: the base for all rows, then each range's own adapter rows on top.
  key.range = -1;
  sweep<C>(w, strip, nullptr, finish, terms, depths, p.bases, row0, row1, w.sums, true, false, key);
  for (; r < ranges.count && fromOf(ranges, r) < row1; r++) {
    const int64_t from = most(row0, fromOf(ranges, r)), to = least(row1, toOf(ranges, r));
    if (from >= to || rankOf(ranges, r) == 0) continue;
    for (int i = 0; i < p.rankeds; i++) terms[i] = &p.ranked[i], depths[i] = rankOf(ranges, r);
    key.range = r;
    sweep<C>(w, strip, nullptr, finish, terms, depths, p.rankeds, from, to, w.sums + (from - row0) * TILE_COLS, false, false, key);
    w.key.call = 0;
  }
  for (int64_t row = row0; row < row1; row++) finish(row, w.sums + (row - row0) * TILE_COLS);
}

/** How panels are shared out: the first `whole` with all their rows each, the others in `blocks` of rows. */
struct Shares {
  int64_t whole, blocks, height;
};

/** What decoding a panel costs, in rows of its product. */
constexpr int64_t PANEL_COST = 12;

/**
 * As many whole panels as all threads get alike, less one each where there are many and decoding them twice costs little; the
 * rest so as to end soonest.
 */
QDL_INLINE Shares sharesOf(int64_t panels, int64_t rows, int64_t threads) {
  if (threads == 1) return {panels, 1, rows};
  const bool many = panels >= 4 * threads && rows >= 20 * PANEL_COST;
  const int64_t rest = panels % threads + (many ? threads : 0);
  Shares best = {panels - rest, 1, rows};
  int64_t soonest = INT64_MAX;
  for (int64_t blocks = many ? 2 : 1; blocks <= 2 * threads && blocks * 2 * TILE_ROWS <= rows; blocks++) {
    const int64_t height = roundUp(ceilDiv(rows, blocks), TILE_ROWS), used = ceilDiv(rows, height);
    const int64_t time = ceilDiv(rest * used, threads) * (height + PANEL_COST);
    if (time < soonest) soonest = time, best.blocks = used, best.height = height;
  }
  return best;
}

/** The strip of a panel, counted over all products; `which` becomes its product. */
QDL_INLINE Strip stripOf(const Product* products, int64_t panel, int& which) {
  for (which = 0; panel >= ceilDiv(products[which].out.cols, TILE_COLS); which++) panel -= ceilDiv(products[which].out.cols, TILE_COLS);
  Strip strip;
  strip.col = panel * TILE_COLS;
  strip.cols = static_cast<int>(least(TILE_COLS, products[which].out.cols - strip.col));
  strip.vectors = static_cast<int>(ceilDiv(strip.cols, LANES));
  strip.width = strip.vectors * LANES;
  return strip;
}

/** Products that share rows row0..row1−1; each has its own columns. `finishOf(product, strip)` makes what ends a row. */
template <class C, class FinishOf>
static void multiplyThen(Context& context, const Product* products, int count, int64_t row0, int64_t row1, const Ranges& ranges,
                         FinishOf finishOf) {
  if (row1 <= row0) return;
  int64_t panels = 0;
  for (int i = 0; i < count; i++) panels += ceilDiv(products[i].out.cols, TILE_COLS);
  if (panels == 0) return;
  const Shares shares = sharesOf(panels, row1 - row0, context.threads);
  const uint64_t call = ++context.sequence;
  // Threads take items in turn: so each goes along neighbouring panels of its own, and none writes beside another.
  const int64_t apart = shares.whole % context.threads == 0 ? context.threads : 1;
  const int64_t items = shares.whole + (panels - shares.whole) * shares.blocks;
  const auto panelOf = [&](int64_t i) {
    return i < shares.whole ? i % apart * (shares.whole / apart) + i / apart : shares.whole + (i - shares.whole) / shares.blocks;
  };
  auto item = [&](int64_t i, int thread) {
    const bool whole = i < shares.whole;
    const int64_t panel = panelOf(i);
    const Workspace::Key key = {call, panel, 0};
    const int64_t from = whole ? row0 : row0 + (i - shares.whole) % shares.blocks * shares.height;
    const int64_t to = whole ? row1 : least(row1, from + shares.height);
    int which = 0;
    const Strip strip = stripOf(products, panel, which);
    const Product& p = products[which];
    // Threads are about equally fast, so this is what the thread takes next.
    const int64_t after = i + context.threads < items ? panelOf(i + context.threads) : panel;
    int whichAfter = 0;
    const Strip stripAfter = stripOf(products, after, whichAfter);
    const bool goesOn = after != panel && whichAfter == which;
    const int64_t height = roundUp(ceilDiv(to - from, ceilDiv(to - from, BLOCK_ROWS)), TILE_ROWS);
    for (int64_t row = from; row < to; row += height)
      multiplyBlock<C>(workspaceOf(context, thread), p, ranges, row, least(to, row + height), strip,
                       goesOn && row + height >= to ? &stripAfter : nullptr, finishOf(p, strip), key);
  };
  parallel(context, items, item);
}

/** The same, written to the products' outputs. */
template <class C>
static void multiply(Context& context, const Product* products, int count, int64_t row0, int64_t row1, const Ranges& ranges) {
  multiplyThen<C>(context, products, count, row0, row1, ranges, [](const Product& p, const Strip& strip) { return Write(p, strip); });
}

}  // namespace QDL_ISA
}  // namespace qdl
