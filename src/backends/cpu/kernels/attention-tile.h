// Softmax attention of some queries over a run of keys, taken block by block as keys stream by (arXiv 2307.08691,
// algorithm 1). Each block of 64 keys and values is packed once into the thread's workspace for all queries of the tile; q
// is read once, o and lse are written once.
#pragma once
#include <cfloat>

#include "attention.h"

namespace qdl {
namespace QDL_ISA {

/**
 * Views of one head: query i is row i of `q` and sees the last `window` of the first `seen` + i keys, at least one. At most
 * QUERIES.
 */
struct AttentionTile {
  Tensor q, k, v, o;
  Tensor lse;  // [rows, 1], or null
  int64_t seen;
};

/** Rows and columns of a tensor as one of its own, `stride` elements from row to row. */
QDL_INLINE Tensor window(const Tensor& t, int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t stride) {
  return {address(t, row, col), rows, cols, stride, t.dtype};
}
QDL_INLINE Tensor window(const Tensor& t, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  return window(t, row, rows, col, cols, t.stride);
}

/** The softmax of up to QUERIES rows over blocks of keys: of the present block, and what all blocks so far amount to. */
template <class C>
struct RunningSoftmax {
  typedef typename C::E E;
  float* scores;   // [QUERIES, KEYS]: q·k of the present block
  E* weights;      // [QUERIES, KEYS]: e^(score − largest), 0 for a key that is not seen
  float* largest;  // [QUERIES]: finite, so that a row may pass a block of which it sees no key
  float* shrinks;  // [QUERIES]: how what was added up before the present block shrinks
  float* totals;   // [QUERIES, LANES]

  explicit RunningSoftmax(Arena& arena)
      : scores(arena.take<float>(QUERIES * KEYS)),
        weights(arena.take<E>(QUERIES * KEYS)),
        largest(arena.take<float>(QUERIES)),
        shrinks(arena.take<float>(QUERIES)),
        totals(arena.take<float>(QUERIES * LANES)) {}

  void start(int64_t rows) {
    for (int64_t i = 0; i < roundUp(rows, LANES); i++) largest[i] = -FLT_MAX, shrinks[i] = 0;
    memset(totals, 0, rows * LANES * 4);
  }

  /**
   * Makes weights of the scores of `keys` keys, of which row i sees those before `end` + i·`step`, the last `window` of them.
   * Those outside columnsOf(row, count) are neither read nor made (see timesStrips).
   */
  template <class ColumnsOf>
  void block(const Scoring& scoring, int64_t rows, int64_t keys, int64_t end, int64_t step, const ColumnsOf& columnsOf) {
    for (int64_t i = 0; i < rows; i++, end += step) {
      const int64_t seen = least(keys, end), hidden = end - scoring.window;
      const Span columns = vectorsOf(spanOfTile(i, rows, columnsOf), keys);
      const vf factor = splat(scoring.factor(scores + i * KEYS + columns.from, 1, columns.to - columns.from, KEYS));
      vf best = splat(-INFINITY);
      for (int64_t j = columns.from; j < columns.to; j += LANES) {
        float* at = scores + i * KEYS + j;
        vf s = load<vf>(at) * factor;
        if (seen < j + LANES) s = below(seen - j, s, splat(-INFINITY));
        if (hidden > j) s = below(hidden - j, splat(-INFINITY), s);
        store(at, s);
        best = maximum(s, best);
      }
      const float now = maximum(best), before = largest[i];
      largest[i] = now > before ? now : before;
      shrinks[i] = before - largest[i];
    }
    for (int64_t i = 0; i < rows; i += LANES) store(shrinks + i, exponential(load<vf>(shrinks + i)));
    for (int64_t i = 0; i < rows; i++) {
      const vf shift = splat(largest[i]);
      vf total = load<vf>(totals + i * LANES) * splat(shrinks[i]);
      const Span columns = vectorsOf(spanOfTile(i, rows, columnsOf), keys);
      for (int64_t j = columns.from; j < columns.to; j += LANES) {
        const vf e = exponential(load<vf>(scores + i * KEYS + j) - shift);
        total += e;
        storeScores<C>(weights + i * KEYS + j, e);
      }
      store(totals + i * LANES, total);
    }
  }

  /** Shrinks sums over the blocks before the present one. */
  void shrink(float* sums, int64_t rows, int64_t pitch) const {
    for (int64_t i = 0; i < rows; i++)
      if (shrinks[i] != 1)
        for (int64_t j = 0; j < pitch; j += LANES) store(sums + i * pitch + j, load<vf>(sums + i * pitch + j) * splat(shrinks[i]));
  }
  float total(int64_t row) const { return sum(load<vf>(totals + row * LANES)); }
};

template <class C>
static void attentionTile(uint8_t* workspace, const AttentionTile& tile, const Scoring& scoring) {
  Arena arena(workspace);
  const int64_t rows = tile.q.rows, dim = tile.q.cols, pitch = roundUp(dim, LANES);
  auto* queryBuffer = arena.take<typename C::E>(QUERIES * dim);
  uint32_t* staging = arena.take<uint32_t>(LANES * PACK_WORDS);
  uint32_t* keyStrips = arena.take<uint32_t>(stripWords<C>(dim, KEYS));
  uint32_t* valueStrips = arena.take<uint32_t>(stripWords<C>(KEYS, dim));
  float* sums = arena.take<float>(QUERIES * pitch);
  RunningSoftmax<C> softmax(arena);
  const Block<C> queries = blockOf<C>(tile.q, 0, rows, 0, dim, queryBuffer);
  softmax.start(rows);

  const auto askFor = [&](int64_t key) {
    const int64_t keys = most(0, least(KEYS, tile.k.rows - key));
    ask(tile.k, key, keys, 0, dim);
    ask(tile.v, key, keys, 0, dim);
  };
  askFor(0);
  for (int64_t key = 0; key < tile.k.rows; key += KEYS) {
    const int64_t keys = least(KEYS, tile.k.rows - key);
    askFor(key + KEYS);
    packTransposed<C>(part(tile.k, key, 0), dim, keys, keyStrips, staging);
    packPlain<C>(part(tile.v, key, 0), keys, dim, valueStrips);
    // What some of the queries see of the keys.
    const auto seenBy = [&](int64_t i, int count) {
      const int64_t end = tile.seen + i - key;
      return Span{end - scoring.window, end + count - 1};
    };
    const auto whole = [&](int64_t, int) { return Span{0, dim}; };
    timesStrips(queries, rows, dim, keyStrips, keys, softmax.scores, KEYS, false, seenBy, whole);
    softmax.block(scoring, rows, keys, tile.seen - key, 1, seenBy);
    if (key > 0) softmax.shrink(sums, rows, pitch);
    timesStrips<C>({softmax.weights, KEYS}, rows, keys, valueStrips, dim, sums, pitch, key > 0, whole, seenBy);
  }
  for (int64_t i = 0; i < rows; i++) {
    const float total = softmax.total(i);
    writeRow(tile.o, i, 0, dim, sums + i * pitch, 1 / total);
    if (tile.lse.data) *at<float>(tile.lse, i) = softmax.largest[i] + std::log(total);
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
