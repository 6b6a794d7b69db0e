// The backward of attention in two passes, so that every output has one owner and nothing is added atomically:
//   queries: an item owns dq of up to 96 query rows of one segment and head, and leaves δ = Σ dO·o in the scratch;
//   keys:    an item owns dk and dv of 64 rows of one segment and key/value head, over the query heads that share it.
// Scores are computed again from lse in both passes (7 products of a tile instead of 5: the price of one owner).
// Each pass reads q, k, v and dO once per item that sees them, and writes its outputs once.
#include "attention.h"

namespace qdl {
namespace QDL_ISA {

struct AttentionGradient {
  Tensor q, k, v, o, lse, dO, dq, dk, dv;
  Segments segments;
  Scoring scoring;
  int64_t dim, heads, share;  // share: query heads per key/value head
  float* delta;  // [N, heads]
};

template <class C>
static void queryTile(uint8_t* workspace, const AttentionGradient& g, const SegmentTile& tile, int64_t head) {
  typedef typename C::E E;
  Arena arena(workspace);
  const int64_t dim = g.dim, rows = tile.to - tile.from, pitch = roundUp(dim, LANES), group = head / g.share;
  E* queryBuffer = arena.take<E>(QUERIES * dim);
  E* gradientBuffer = arena.take<E>(QUERIES * dim);
  uint32_t* staging = arena.take<uint32_t>(LANES * PACK_WORDS);
  uint32_t* keyStrips = arena.take<uint32_t>(stripWords<C>(dim, KEYS));
  uint32_t* valueStrips = arena.take<uint32_t>(stripWords<C>(dim, KEYS));
  uint32_t* plainKeys = arena.take<uint32_t>(stripWords<C>(KEYS, dim));
  float* scores = arena.take<float>(QUERIES * KEYS);
  float* products = arena.take<float>(QUERIES * KEYS);
  E* slopes = arena.take<E>(QUERIES * KEYS);
  float* sums = arena.take<float>(QUERIES * pitch);
  float* bufferA = arena.take<float>(pitch);
  float* bufferB = arena.take<float>(pitch);
  const Block<C> queries = blockOf<C>(g.q, tile.from, rows, head * dim, dim, queryBuffer);
  const Block<C> gradients = blockOf<C>(g.dO, tile.from, rows, head * dim, dim, gradientBuffer);
  for (int64_t i = 0; i < rows; i++) {
    const float* a = read(g.dO, tile.from + i, head * dim, dim, bufferA);
    const float* b = read(g.o, tile.from + i, head * dim, dim, bufferB);
    g.delta[(tile.from + i) * g.heads + head] = dotRow(a, b, dim);
  }
  const int64_t first = most(tile.start, tile.from + 1 - g.scoring.window);
  for (int64_t key = first; key < tile.to; key += KEYS) {
    const int64_t keys = least(KEYS, tile.to - key);
    const Source k = part(g.k, key, group * dim);
    packTransposed<C>(k, dim, keys, keyStrips, staging);
    packTransposed<C>(part(g.v, key, group * dim), dim, keys, valueStrips, staging);
    packPlain<C>(k, keys, dim, plainKeys);
    timesStrips<C>(queries, rows, dim, keyStrips, keys, scores, KEYS, false);
    timesStrips<C>(gradients, rows, dim, valueStrips, keys, products, KEYS, false);
    const vf factor = splat(g.scoring.factor(scores, rows, roundUp(keys, LANES), KEYS));
    for (int64_t i = 0; i < rows; i++) {
      const int64_t row = tile.from + i, seen = least(keys, row + 1 - key), hidden = row + 1 - key - g.scoring.window;
      const vf shift = splat(*at<float>(g.lse, row, head)), delta = splat(g.delta[row * g.heads + head]);
      for (int64_t j = 0; j < roundUp(keys, LANES); j += LANES) {
        const vf score = load<vf>(scores + i * KEYS + j) * factor;
        vf p = exponential(score - shift);
        if (seen < j + LANES) p = below(seen - j, p, vf{});
        if (hidden > j) p = below(hidden - j, vf{}, p);
        vf slope = p * (load<vf>(products + i * KEYS + j) - delta) * splat(g.scoring.scale);
        if (g.scoring.cap != 0) slope *= g.scoring.slope(score);
        storeScores<C>(slopes + i * KEYS + j, slope);
      }
    }
    timesStrips<C>({slopes, KEYS}, rows, keys, plainKeys, dim, sums, pitch, key > first);
  }
  for (int64_t i = 0; i < rows; i++) writeRow(g.dq, tile.from + i, head * dim, dim, sums + i * pitch, 1);
}

template <class C>
static void keyTile(uint8_t* workspace, const AttentionGradient& g, const SegmentTile& tile, int64_t group) {
  typedef typename C::E E;
  Arena arena(workspace);
  const int64_t dim = g.dim, keys = tile.to - tile.from, pitch = roundUp(dim, LANES);
  constexpr int64_t BLOCK_QUERIES = KEYS;  // queries are the columns here
  E* keyBuffer = arena.take<E>(KEYS * dim);
  E* valueBuffer = arena.take<E>(KEYS * dim);
  uint32_t* staging = arena.take<uint32_t>(LANES * PACK_WORDS);
  uint32_t* queryStrips = arena.take<uint32_t>(stripWords<C>(dim, BLOCK_QUERIES));
  uint32_t* gradientStrips = arena.take<uint32_t>(stripWords<C>(dim, BLOCK_QUERIES));
  uint32_t* plainQueries = arena.take<uint32_t>(stripWords<C>(BLOCK_QUERIES, dim));
  uint32_t* plainGradients = arena.take<uint32_t>(stripWords<C>(BLOCK_QUERIES, dim));
  float* scores = arena.take<float>(KEYS * BLOCK_QUERIES);
  float* products = arena.take<float>(KEYS * BLOCK_QUERIES);
  E* weights = arena.take<E>(KEYS * BLOCK_QUERIES);
  E* slopes = arena.take<E>(KEYS * BLOCK_QUERIES);
  float* keySums = arena.take<float>(KEYS * pitch);
  float* valueSums = arena.take<float>(KEYS * pitch);
  float* shifts = arena.take<float>(BLOCK_QUERIES);
  float* deltas = arena.take<float>(BLOCK_QUERIES);
  const Block<C> keyBlock = blockOf<C>(g.k, tile.from, keys, group * dim, dim, keyBuffer);
  const Block<C> valueBlock = blockOf<C>(g.v, tile.from, keys, group * dim, dim, valueBuffer);
  bool first = true;
  const int64_t stop = least(tile.stop, tile.to - 1 + g.scoring.window);  // no query from here on sees a key of the tile
  for (int64_t head = group * g.share; head < (group + 1) * g.share; head++)
    for (int64_t query = tile.from; query < stop; query += BLOCK_QUERIES, first = false) {
      const int64_t queries = least(BLOCK_QUERIES, stop - query), whole = roundUp(queries, LANES);
      const Source q = part(g.q, query, head * dim), dO = part(g.dO, query, head * dim);
      packTransposed<C>(q, dim, queries, queryStrips, staging);
      packTransposed<C>(dO, dim, queries, gradientStrips, staging);
      packPlain<C>(q, queries, dim, plainQueries);
      packPlain<C>(dO, queries, dim, plainGradients);
      timesStrips<C>(keyBlock, keys, dim, queryStrips, queries, scores, BLOCK_QUERIES, false);
      timesStrips<C>(valueBlock, keys, dim, gradientStrips, queries, products, BLOCK_QUERIES, false);
      for (int64_t j = 0; j < queries; j++) {
        shifts[j] = *at<float>(g.lse, query + j, head);
        deltas[j] = g.delta[(query + j) * g.heads + head];
      }
      for (int64_t j = queries; j < whole; j++) shifts[j] = deltas[j] = 0;
      const vf factor = splat(g.scoring.factor(scores, keys, whole, BLOCK_QUERIES));
      for (int64_t i = 0; i < keys; i++) {
        const int64_t blind = tile.from + i - query;      // queries before this key do not see it,
        const int64_t beyond = blind + g.scoring.window;  // nor do those from here on
        for (int64_t j = 0; j < whole; j += LANES) {
          const int64_t at = i * BLOCK_QUERIES + j;
          const vf score = load<vf>(scores + at) * factor;
          vf p = exponential(score - load<vf>(shifts + j));
          if (j < blind) p = below(blind - j, vf{}, p);
          if (beyond < j + LANES) p = below(beyond - j, p, vf{});
          storeScores<C>(weights + at, p);
          vf slope = p * (load<vf>(products + at) - load<vf>(deltas + j)) * splat(g.scoring.scale);
          if (g.scoring.cap != 0) slope *= g.scoring.slope(score);
          storeScores<C>(slopes + at, slope);
        }
      }
      timesStrips<C>({weights, BLOCK_QUERIES}, keys, queries, plainGradients, dim, valueSums, pitch, !first);
      timesStrips<C>({slopes, BLOCK_QUERIES}, keys, queries, plainQueries, dim, keySums, pitch, !first);
    }
  for (int64_t i = 0; i < keys; i++) {
    writeRow(g.dk, tile.from + i, group * dim, dim, keySums + i * pitch, 1);
    writeRow(g.dv, tile.from + i, group * dim, dim, valueSums + i * pitch, 1);
  }
}

static void attentionBackward(Context& context, const double* words, uint8_t* scratch) {
  Args args(words);
  AttentionGradient g;
  g.q = args.tensor();
  g.k = args.tensor();
  g.v = args.tensor();
  g.segments = {args.tensor(), g.q.rows};
  g.o = args.tensor();
  g.lse = args.tensor();
  g.dO = args.tensor();
  g.dq = args.tensor();
  g.dk = args.tensor();
  g.dv = args.tensor();
  g.scoring = scoringOf(args);
  g.dim = g.scoring.dim;
  g.heads = g.q.cols / g.dim;
  const int64_t groups = g.k.cols / g.dim;
  g.share = g.heads / groups;
  g.delta = reinterpret_cast<float*>(scratch);
  zeroPadding(context, g.segments, g.dq);
  zeroPadding(context, g.segments, g.dk);
  zeroPadding(context, g.segments, g.dv);
  withCompute(g.q.dtype, [&](auto compute) {
    typedef decltype(compute) C;
    auto queries = [&](int64_t i, int thread) {
      queryTile<C>(context.workspaces[thread], g, tileAt(g.segments, QUERIES, i / g.heads), i % g.heads);
    };
    parallel(context, tilesOf(g.segments, QUERIES) * g.heads, queries);
    auto keys = [&](int64_t i, int thread) {
      keyTile<C>(context.workspaces[thread], g, tileAt(g.segments, KEYS, i / groups), i % groups);
    };
    parallel(context, tilesOf(g.segments, KEYS) * groups, keys);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
