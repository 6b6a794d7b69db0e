// Causal attention within segments, with the softmax taken block by block as keys stream by (arXiv 2307.08691, algorithm 1).
// An item owns up to 96 query rows of one segment and head: their o and lse. It packs each block of 64 keys and values that
// they see into its workspace; q is read once, k and v once per item, o and lse written once.
#include "attention.h"

namespace qdl {
namespace QDL_ISA {

template <class C>
static void attentionTile(uint8_t* workspace, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                          const Tensor& lse, int64_t dim, float scale, const SegmentTile& tile, int64_t head, int64_t group) {
  typedef typename C::E E;
  Arena arena(workspace);
  const int64_t rows = tile.to - tile.from, pitch = roundUp(dim, LANES);
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
  const Block<C> queries = blockOf<C>(q, tile.from, rows, head * dim, dim, queryBuffer);
  for (int64_t i = 0; i < QUERIES; i++) largest[i] = -INFINITY, shrinks[i] = 0;
  memset(totals, 0, QUERIES * LANES * 4);

  for (int64_t key = tile.start; key < tile.to; key += KEYS) {
    const int64_t keys = least(KEYS, tile.to - key);
    const int vectors = static_cast<int>(ceilDiv(keys, LANES));
    packTransposed<C>(part(k, key, group * dim), dim, keys, keyStrips, staging);
    packPlain<C>(part(v, key, group * dim), keys, dim, valueStrips);
    timesStrips<C>(queries, rows, dim, keyStrips, keys, scores, KEYS, false);
    for (int64_t i = 0; i < rows; i++) {
      const int64_t seen = least(keys, tile.from + i + 1 - key);
      vf best = splat(-INFINITY);
      for (int j = 0; j < vectors; j++) {
        float* at = scores + i * KEYS + j * LANES;
        vf s = load<vf>(at) * splat(scale);
        if (seen < (j + 1) * LANES) s = below(seen - j * LANES, s, splat(-INFINITY));
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
      if (key > tile.start && shrinks[i] != 1)
        for (int64_t j = 0; j < pitch; j += LANES) store(sums + i * pitch + j, load<vf>(sums + i * pitch + j) * splat(shrinks[i]));
    }
    timesStrips<C>({weights, KEYS}, rows, keys, valueStrips, dim, sums, pitch, key > tile.start);
  }
  for (int64_t i = 0; i < rows; i++) {
    const float total = sum(load<vf>(totals + i * LANES));
    writeRow(o, tile.from + i, head * dim, dim, sums + i * pitch, 1 / total);
    *at<float>(lse, tile.from + i, head) = largest[i] + std::log(total);
  }
}

static void attention(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor q = args.tensor(), k = args.tensor(), v = args.tensor(), starts = args.tensor(), o = args.tensor();
  const Tensor lse = args.tensor();
  const int64_t dim = args.integer();
  const float scale = static_cast<float>(args.number());
  const int64_t heads = q.cols / dim, share = heads / (k.cols / dim);
  const Segments segments = {starts, q.rows};
  zeroPadding(context, segments, o);
  zeroPadding(context, segments, lse);
  withCompute(q.dtype, [&](auto compute) {
    auto item = [&](int64_t i, int thread) {
      attentionTile<decltype(compute)>(context.workspaces[thread], q, k, v, o, lse, dim, scale,
                                       tileAt(segments, QUERIES, i / heads), i % heads, i % heads / share);
    };
    parallel(context, tilesOf(segments, QUERIES) * heads, item);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
