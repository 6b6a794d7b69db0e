// Softmax attention of some queries over a run of keys, taken block by block as keys stream by (arXiv 2307.08691,
// algorithm 1). Each block of 64 keys and values is packed once into the thread's workspace for all queries of the tile; q
// is read once, o and lse are written once.
#pragma once
#include <cfloat>

#include "attention.h"

namespace qdl {
namespace QDL_ISA {

/**
 * Views of one head: query i is row i of `q` and sees the last `window` of the first `seen` + i·`step` keys, at least one. At
 * most QUERIES.
 */
struct AttentionTile {
  Tensor q, k, v, o;
  Tensor lse;  // [rows, 1], or null
  int64_t seen, step;
};

/** Rows and columns of a tensor as one of its own, `stride` elements from row to row. */
QDL_INLINE Tensor window(const Tensor& t, int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t stride) {
  return {address(t, row, col), rows, cols, stride, t.dtype};
}
QDL_INLINE Tensor window(const Tensor& t, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  return window(t, row, rows, col, cols, t.stride);
}

template <class C>
static void attentionTile(uint8_t* workspace, const AttentionTile& tile, const Scoring& scoring) {
  typedef typename C::E E;
  Arena arena(workspace);
  const int64_t rows = tile.q.rows, dim = tile.q.cols, pitch = roundUp(dim, LANES);
  E* queryBuffer = arena.take<E>(QUERIES * dim);
  uint32_t* staging = arena.take<uint32_t>(LANES * PACK_WORDS);
  uint32_t* keyStrips = arena.take<uint32_t>(stripWords<C>(dim, KEYS));
  uint32_t* valueStrips = arena.take<uint32_t>(stripWords<C>(KEYS, dim));
  float* scores = arena.take<float>(QUERIES * KEYS);
  E* weights = arena.take<E>(QUERIES * KEYS);
  float* sums = arena.take<float>(QUERIES * pitch);
  float* largest = arena.take<float>(QUERIES);
  float* shrinks = arena.take<float>(QUERIES);
  float* totals = arena.take<float>(QUERIES * LANES);
  const Block<C> queries = blockOf<C>(tile.q, 0, rows, 0, dim, queryBuffer);
  // Finite, so that a row may pass a block of which it sees no key.
  for (int64_t i = 0; i < QUERIES; i++) largest[i] = -FLT_MAX, shrinks[i] = 0;
  memset(totals, 0, QUERIES * LANES * 4);

  const auto askFor = [&](int64_t key) {
    const int64_t keys = most(0, least(KEYS, tile.k.rows - key));
    ask(tile.k, key, keys, 0, dim);
    ask(tile.v, key, keys, 0, dim);
  };
  askFor(0);
  for (int64_t key = 0; key < tile.k.rows; key += KEYS) {
    const int64_t keys = least(KEYS, tile.k.rows - key);
    askFor(key + KEYS);
    const int vectors = static_cast<int>(ceilDiv(keys, LANES));
    packTransposed<C>(part(tile.k, key, 0), dim, keys, keyStrips, staging);
    packPlain<C>(part(tile.v, key, 0), keys, dim, valueStrips);
    timesStrips<C>(queries, rows, dim, keyStrips, keys, scores, KEYS, false);
    const vf factor = splat(scoring.factor(scores, rows, vectors * LANES, KEYS));
    for (int64_t i = 0; i < rows; i++) {
      const int64_t end = tile.seen + i * tile.step - key, seen = least(keys, end), hidden = end - scoring.window;
      vf best = splat(-INFINITY);
      for (int j = 0; j < vectors; j++) {
        float* at = scores + i * KEYS + j * LANES;
        vf s = load<vf>(at) * factor;
        if (seen < (j + 1) * LANES) s = below(seen - j * LANES, s, splat(-INFINITY));
        if (hidden > j * LANES) s = below(hidden - j * LANES, splat(-INFINITY), s);
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
      for (int j = 0; j < vectors; j++) {
        const vf e = exponential(load<vf>(scores + i * KEYS + j * LANES) - shift);
        total += e;
        storeScores<C>(weights + i * KEYS + j * LANES, e);
      }
      store(totals + i * LANES, total);
      if (key > 0 && shrinks[i] != 1)
        for (int64_t j = 0; j < pitch; j += LANES) store(sums + i * pitch + j, load<vf>(sums + i * pitch + j) * splat(shrinks[i]));
    }
    timesStrips<C>({weights, KEYS}, rows, keys, valueStrips, dim, sums, pitch, key > 0);
  }
  for (int64_t i = 0; i < rows; i++) {
    const float total = sum(load<vf>(totals + i * LANES));
    writeRow(tile.o, i, 0, dim, sums + i * pitch, 1 / total);
    if (tile.lse.data) *at<float>(tile.lse, i) = largest[i] + std::log(total);
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
