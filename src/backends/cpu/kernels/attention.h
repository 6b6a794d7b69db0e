// What attention and its backward share: how segments are cut into tiles, and small products inside a thread's workspace.
// Scores exist for one tile of QUERIES × KEYS at a time, never for a whole segment.
#pragma once
#include "gemm.h"

namespace qdl {
namespace QDL_ISA {

constexpr int64_t QUERIES = 96;
constexpr int64_t KEYS = 64;
constexpr int64_t LARGEST_HEAD = 512;  // as in kernels.ts
constexpr int KEY_VECTORS = KEYS / LANES;
static_assert(KEYS % TILE_COLS == 0, "keys fill whole strips");

/** Hands out 64-byte aligned pieces of a thread's workspace, behind the key of its panel (which stays valid). */
class Arena {
 public:
  explicit Arena(uint8_t* workspace) : at_(workspace + 64) {}
  template <class T>
  QDL_INLINE_MEMBER T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(at_);
    at_ += roundUp(count * sizeof(T), 64);
    return piece;
  }

 private:
  uint8_t* at_;
};

/** How q·k becomes a score, and which keys count; `cap` 0: not capped. */
struct Scoring {
  int64_t dim;
  float scale;
  int64_t window;  // keys that a query sees at most, its own the last of them
  float cap;

  /** Of a block of products q·k, makes cap·tanh(scale·q·k/cap) if scores are capped. Returns the factor still due. */
  QDL_INLINE_MEMBER float factor(float* products, int64_t rows, int64_t cols, int64_t pitch) const {
    if (cap == 0) return scale;
    const vf inward = splat(scale / cap), outward = splat(cap);
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < cols; j += LANES) {
        float* at = products + i * pitch + j;
        store(at, outward * hyperbolicTangent(load<vf>(at) * inward));
      }
    return 1;
  }
  /** ∂score/∂(scale·q·k) at a score; only for capped ones. */
  QDL_INLINE_MEMBER vf slope(vf score) const {
    const vf share = score * splat(1 / cap);
    return splat(1) - share * share;
  }
};
QDL_INLINE Scoring scoringOf(Args& args) {
  Scoring s;
  s.dim = args.integer();
  s.scale = static_cast<float>(args.number());
  const int64_t window = args.integer();
  s.window = window > 0 ? window : int64_t{1} << 62;
  s.cap = static_cast<float>(args.number());
  return s;
}

/** Segments of packed rows; starts that lie outside the rows or run backwards are cut to what is inside. */
struct Segments {
  Tensor starts;
  int64_t rows;
  QDL_INLINE_MEMBER int64_t bound(int64_t s) const { return most(0, least(rows, *at<int32_t>(starts, s))); }
  QDL_INLINE_MEMBER int64_t count() const { return starts.rows - 1; }
  /** First row behind the last segment: from here on rows are padding. */
  QDL_INLINE_MEMBER int64_t end() const { return bound(starts.rows - 1); }
};

/** Rows from..to−1 of one segment, cut into tiles of `height` rows counted over all segments. */
struct SegmentTile {
  int64_t start, stop;  // the segment
  int64_t from, to;     // the tile
};

QDL_INLINE int64_t tilesOf(const Segments& segments, int64_t height) {
  int64_t tiles = 0;
  for (int64_t s = 0; s < segments.count(); s++)
    tiles += most(0, ceilDiv(segments.bound(s + 1) - segments.bound(s), height));
  return tiles;
}
QDL_INLINE SegmentTile tileAt(const Segments& segments, int64_t height, int64_t tile) {
  for (int64_t s = 0; s < segments.count(); s++) {
    const int64_t start = segments.bound(s), stop = segments.bound(s + 1), tiles = most(0, ceilDiv(stop - start, height));
    if (tile < tiles) return {start, stop, start + tile * height, least(stop, start + (tile + 1) * height)};
    tile -= tiles;
  }
  return {};
}

/** Zeroes columns of the padding rows. */
QDL_INLINE void zeroPadding(Context& context, const Segments& segments, const Tensor& t) {
  const int64_t first = segments.count() > 0 ? segments.bound(0) : 0, end = segments.end();
  eachRow(context, first + t.rows - end, t.cols, [&](int64_t i) { zeroRow(t, i < first ? i : end + i - first, 0, t.cols); });
}

/** A block of rows × cols as E: in place, or converted into `buffer`. */
template <class C>
struct Block {
  const typename C::E* data;
  int64_t pitch;
};
template <class C>
QDL_INLINE Block<C> blockOf(const Tensor& t, int64_t row, int64_t rows, int64_t col, int64_t cols, typename C::E* buffer) {
  typedef typename C::E E;
  if (t.dtype == (C::PAIR == 1 ? F32 : BF16)) return {at<E>(t, row, col), t.stride};
  for (int64_t i = 0; i < rows; i++)
    if constexpr (C::PAIR == 1)
      widen(at<uint16_t>(t, row + i, col), cols, buffer + i * cols);
    else
      narrow(at<float>(t, row + i, col), cols, buffer + i * cols);
  return {buffer, cols};
}

/** Rows row..row+rows−1 and columns col.. of a tensor as a matrix of its own. */
QDL_INLINE Source part(const Tensor& t, int64_t row, int64_t col) {
  Tensor view = t;
  view.data = address(t, row, col);
  return sourceOf(view, false);
}

/** Words of the strips of a right operand. */
template <class C>
QDL_INLINE int64_t stripWords(int64_t depth, int64_t cols) {
  return steps(depth, C::PAIR) * roundUp(cols, LANES);
}

/** Packs the transpose of a rows × depth matrix: the right operand of left·matrixᵀ. */
template <class C>
static void packTransposed(const Source& s, int64_t depth, int64_t cols, uint32_t* out, uint32_t* staging) {
  for (int64_t col = 0; col < cols; col += TILE_COLS) {
    const int width = static_cast<int>(least(TILE_COLS, roundUp(cols - col, LANES)));
    packRows<C>(s, 0, static_cast<int>(depth), col, cols - col, width, out, staging);
    out += steps(depth, C::PAIR) * width;
  }
}
/** Packs a depth × cols matrix: the right operand of left·matrix. */
template <class C>
static void packPlain(const Source& s, int64_t depth, int64_t cols, uint32_t* out) {
  for (int64_t col = 0; col < cols; col += TILE_COLS) {
    const int width = static_cast<int>(least(TILE_COLS, roundUp(cols - col, LANES)));
    packCols<C>(s, 0, static_cast<int>(depth), col, cols - col, width, out);
    out += steps(depth, C::PAIR) * width;
  }
}
/** Numbers from..to−1; none if to ≤ from. */
struct Span {
  int64_t from, to;
};
/** The whole vectors that hold those of a span that are from 0 to limit−1. */
QDL_INLINE Span vectorsOf(Span s, int64_t limit) {
  return {most(0, s.from) / LANES * LANES, roundUp(most(0, least(limit, s.to)), LANES)};
}

/**
 * out[rows, cols] (=|+=) left[rows, depth] · strips; `pitchOut` has room for whole vectors. Of rows row..row+n−1, at most
 * TILE_ROWS from a multiple of it on, only the columns columnsOf(row, n) are wanted (others may stay as they are), and
 * left is zero outside depthOf(row, n).
 */
template <class C, class ColumnsOf, class DepthOf>
static void timesStrips(const Block<C>& left, int64_t rows, int64_t depth, const uint32_t* strips, int64_t cols, float* out,
                        int64_t pitchOut, bool accumulate, const ColumnsOf& columnsOf, const DepthOf& depthOf) {
  for (int64_t col = 0; col < cols; col += TILE_COLS) {
    const int64_t width = least(TILE_COLS, roundUp(cols - col, LANES));
    for (int64_t row = 0; row < rows; row += TILE_ROWS) {
      const int count = static_cast<int>(least(TILE_ROWS, rows - row));
      const Span columns = vectorsOf(columnsOf(row, count), cols), deep = vectorsOf(depthOf(row, count), depth);
      const int64_t from = most(columns.from, col), to = least(columns.to, col + width);
      if (to <= from) continue;
      const int64_t used = most(0, least(depth, deep.to) - deep.from);
      const Piece<C> piece = {left.data + row * left.pitch + deep.from, left.pitch, used,
                              strips + deep.from / C::PAIR * width + from - col, width};
      runTile<C>(count, static_cast<int>((to - from) / LANES), &piece, 1, out + row * pitchOut + from, pitchOut, accumulate);
    }
    strips += steps(depth, C::PAIR) * width;
  }
}
/** The span that `spanOf` gives for the register tile that holds row `row` of `rows`. */
template <class SpanOf>
QDL_INLINE Span spanOfTile(int64_t row, int64_t rows, const SpanOf& spanOf) {
  const int64_t first = row / TILE_ROWS * TILE_ROWS;
  return spanOf(first, static_cast<int>(least(TILE_ROWS, rows - first)));
}

/** One row of a tile of scores, rounded to E. */
template <class C>
QDL_INLINE void storeScores(typename C::E* out, vf value) {
  if constexpr (C::PAIR == 1)
    store(out, value);
  else
    store(out, rounded(value));
}

/** n sums of a row times a factor, into the output. */
QDL_INLINE void writeRow(const Tensor& t, int64_t row, int64_t col, int64_t n, float* values, float factor) {
  for (int64_t j = 0; j < n; j++) values[j] *= factor;
  if (t.dtype == BF16)
    rounded(values, n, at<uint16_t>(t, row, col));
  else
    memcpy(at<float>(t, row, col), values, n * 4);
}

}  // namespace QDL_ISA
}  // namespace qdl
