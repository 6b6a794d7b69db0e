// The backward of attention, in one of two ways that give the same bits:
//   one pass: an item owns dq, dk and dv of one segment and key/value head. It takes 64 keys at a time over the query heads
//     that share them, and adds up dq of the whole segment in the scratch;
//   two passes, for more threads than that keeps busy: scores are computed again (7 products of a tile instead of 5).
//     queries: an item owns dq of up to 96 query rows of one segment and head;
//     keys:    an item owns dk and dv of 64 rows of one segment and key/value head.
// Every output has one owner and nothing is added atomically. δ = Σ dO·o comes first. Each pass reads q, k, v and dO once per
// item that sees them, and writes its outputs once.
#include "attention.h"

namespace qdl {
namespace QDL_ISA {

struct AttentionGradient {
  Tensor q, k, v, o, lse, dO, dq, dk, dv;
  Segments segments;
  Scoring scoring;
  int64_t dim, heads, share;  // share: query heads per key/value head
  float* delta;  // [N, heads]
  float* sums;   // dq so far: [heads, N, pitch]
};

/** First of the blocks of 64 keys, counted from the segment's start, of which a query in a row from `query` on sees any. */
QDL_INLINE int64_t firstBlock(const AttentionGradient& g, int64_t start, int64_t query) {
  return start + most(0, query + 1 - g.scoring.window - start) / KEYS * KEYS;
}

/** out[j][i] = in[i][j] of a block of KEYS × KEYS. */
template <class C>
static void transposeBlock(typename C::E* in, typename C::E* out) {
#if defined(__AVX512BF16__)
  if constexpr (C::PAIR == 2) {
    const Tensor from = {reinterpret_cast<uint8_t*>(in), KEYS, KEYS, KEYS, BF16};
    const Tensor to = {reinterpret_cast<uint8_t*>(out), KEYS, KEYS, KEYS, BF16};
    for (int64_t row = 0; row < KEYS; row += PAIR_COLS)
      for (int64_t col = 0; col < KEYS; col += LANES) transposePairs(from, row, col, to);
    return;
  }
#endif
  for (int64_t i = 0; i < KEYS; i++)
    for (int64_t j = 0; j < KEYS; j++) out[j * KEYS + i] = in[i * KEYS + j];
}

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
  const Block<C> queries = blockOf<C>(g.q, tile.from, rows, head * dim, dim, queryBuffer);
  const Block<C> gradients = blockOf<C>(g.dO, tile.from, rows, head * dim, dim, gradientBuffer);
  const int64_t first = firstBlock(g, tile.start, tile.from);
  for (int64_t key = first; key < tile.to; key += KEYS) {
    const int64_t keys = least(KEYS, tile.to - key);
    const Source k = part(g.k, key, group * dim);
    packTransposed<C>(k, dim, keys, keyStrips, staging);
    packTransposed<C>(part(g.v, key, group * dim), dim, keys, valueStrips, staging);
    packPlain<C>(k, keys, dim, plainKeys);
    // What some of these rows see of the keys.
    const auto seenBy = [&](int64_t i, int count) {
      const int64_t end = tile.from + i + 1 - key;
      return Span{end - g.scoring.window, end + count - 1};
    };
    const auto whole = [&](int64_t, int) { return Span{0, dim}; };
    timesStrips(queries, rows, dim, keyStrips, keys, scores, KEYS, false, seenBy, whole);
    timesStrips(gradients, rows, dim, valueStrips, keys, products, KEYS, false, seenBy, whole);
    for (int64_t i = 0; i < rows; i++) {
      const int64_t row = tile.from + i, seen = least(keys, row + 1 - key), hidden = row + 1 - key - g.scoring.window;
      const vf shift = splat(*at<float>(g.lse, row, head)), delta = splat(g.delta[row * g.heads + head]);
      const Span columns = vectorsOf(spanOfTile(i, rows, seenBy), keys);
      const vf factor = splat(g.scoring.factor(scores + i * KEYS + columns.from, 1, columns.to - columns.from, KEYS));
      for (int64_t j = columns.from; j < columns.to; j += LANES) {
        const vf score = load<vf>(scores + i * KEYS + j) * factor;
        vf p = exponential(score - shift);
        if (seen < j + LANES) p = below(seen - j, p, vf{});
        if (hidden > j) p = below(hidden - j, vf{}, p);
        vf slope = p * (load<vf>(products + i * KEYS + j) - delta) * splat(g.scoring.scale);
        if (g.scoring.cap != 0) slope *= g.scoring.slope(score);
        storeScores<C>(slopes + i * KEYS + j, slope);
      }
    }
    timesStrips<C>({slopes, KEYS}, rows, keys, plainKeys, dim, sums, pitch, key > first, whole, seenBy);
  }
  for (int64_t i = 0; i < rows; i++) writeRow(g.dq, tile.from + i, head * dim, dim, sums + i * pitch, 1);
}

/** dk and dv of a tile of keys; in one pass also its part of dq, whose rows are done where the keys are the queries' own. */
template <class C, bool ONE_PASS>
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
  uint32_t* plainKeys = arena.take<uint32_t>(stripWords<C>(KEYS, dim));
  E* turned = arena.take<E>(KEYS * BLOCK_QUERIES);
  if (ONE_PASS) packPlain<C>(part(g.k, tile.from, group * dim), keys, dim, plainKeys);
  const Block<C> keyBlock = blockOf<C>(g.k, tile.from, keys, group * dim, dim, keyBuffer);
  const Block<C> valueBlock = blockOf<C>(g.v, tile.from, keys, group * dim, dim, valueBuffer);
  bool first = true;
  const auto all = [&](int64_t, int) { return Span{0, dim}; };
  // No query from here on sees a key of the tile. Blocks of queries are whole, so that one pass starts all sums of a block at once.
  const int64_t stop = least(tile.stop, tile.from + roundUp(keys - 1 + g.scoring.window, BLOCK_QUERIES));
  for (int64_t head = group * g.share; head < (group + 1) * g.share; head++)
    for (int64_t query = tile.from; query < stop; query += BLOCK_QUERIES, first = false) {
      const int64_t queries = least(BLOCK_QUERIES, stop - query), whole = roundUp(queries, LANES);
      const Source q = part(g.q, query, head * dim), dO = part(g.dO, query, head * dim);
      packTransposed<C>(q, dim, queries, queryStrips, staging);
      packTransposed<C>(dO, dim, queries, gradientStrips, staging);
      packPlain<C>(q, queries, dim, plainQueries);
      packPlain<C>(dO, queries, dim, plainGradients);
      // The queries that see some of these keys, and the keys that some queries see.
      const int64_t apart = tile.from - query;
      const auto seenBy = [&](int64_t i, int count) { return Span{apart + i, apart + i + count - 1 + g.scoring.window}; };
      const auto seen = [&](int64_t j, int count) { return Span{j - apart + 1 - g.scoring.window, j - apart + count}; };
      timesStrips(keyBlock, keys, dim, queryStrips, queries, scores, BLOCK_QUERIES, false, seenBy, all);
      timesStrips(valueBlock, keys, dim, gradientStrips, queries, products, BLOCK_QUERIES, false, seenBy, all);
      for (int64_t j = 0; j < queries; j++) {
        shifts[j] = *at<float>(g.lse, query + j, head);
        deltas[j] = g.delta[(query + j) * g.heads + head];
      }
      for (int64_t j = queries; j < whole; j++) shifts[j] = deltas[j] = 0;
      for (int64_t i = 0; i < keys; i++) {
        const int64_t blind = apart + i;                  // queries before this key do not see it,
        const int64_t beyond = blind + g.scoring.window;  // nor do those from here on
        const int64_t line = i * BLOCK_QUERIES;
        const Span columns = vectorsOf(spanOfTile(i, keys, seenBy), queries);
        if (ONE_PASS && columns.to - columns.from < whole) memset(slopes + line, 0, whole * sizeof(E));
        const vf factor = splat(g.scoring.factor(scores + line + columns.from, 1, columns.to - columns.from, BLOCK_QUERIES));
        for (int64_t j = columns.from; j < columns.to; j += LANES) {
          const int64_t at = line + j;
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
      timesStrips<C>({weights, BLOCK_QUERIES}, keys, queries, plainGradients, dim, valueSums, pitch, !first, all, seenBy);
      timesStrips<C>({slopes, BLOCK_QUERIES}, keys, queries, plainQueries, dim, keySums, pitch, !first, all, seenBy);
      if (!ONE_PASS) continue;
      transposeBlock<C>(slopes, turned);
      float* sums = g.sums + (head * g.q.rows + query) * pitch;
      const bool more = tile.from > firstBlock(g, tile.start, query);
      timesStrips<C>({turned, KEYS}, queries, keys, plainKeys, dim, sums, pitch, more, all, seen);
      if (query == tile.from)
        for (int64_t i = 0; i < queries; i++) writeRow(g.dq, query + i, head * dim, dim, sums + i * pitch, 1);
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
  g.sums = reinterpret_cast<float*>(scratch);
  g.delta = g.sums + g.heads * g.q.rows * roundUp(g.dim, LANES);
  zeroPadding(context, g.segments, g.dq);
  zeroPadding(context, g.segments, g.dk);
  zeroPadding(context, g.segments, g.dv);
  eachRow(context, g.q.rows, 2 * g.q.cols, [&](int64_t row) {
    float a[LARGEST_HEAD], b[LARGEST_HEAD];
    for (int64_t head = 0; head < g.heads; head++)
      g.delta[row * g.heads + head] =
          dotRow(read(g.dO, row, head * g.dim, g.dim, a), read(g.o, row, head * g.dim, g.dim, b), g.dim);
  });
  withCompute(g.q.dtype, [&](auto compute) {
    typedef decltype(compute) C;
    // In one pass if its items, each as long as 5 products, keep the threads busy enough to beat 7 that are shared evenly.
    const int64_t items = g.segments.count() * groups;
    if (5 * ceilDiv(items, context.threads) * context.threads < 6 * items) {
      auto segments = [&](int64_t i, int thread) {
        const int64_t start = g.segments.bound(i / groups), stop = g.segments.bound(i / groups + 1);
        for (int64_t from = start; from < stop; from += KEYS)
          keyTile<C, true>(context.workspaces[thread], g, {start, stop, from, least(stop, from + KEYS)}, i % groups);
      };
      parallel(context, items, segments);
      return;
    }
    auto queries = [&](int64_t i, int thread) {
      queryTile<C>(context.workspaces[thread], g, tileAt(g.segments, QUERIES, i / g.heads), i % g.heads);
    };
    parallel(context, tilesOf(g.segments, QUERIES) * g.heads, queries);
    auto keys = [&](int64_t i, int thread) {
      keyTile<C, false>(context.workspaces[thread], g, tileAt(g.segments, KEYS, i / groups), i % groups);
    };
    parallel(context, tilesOf(g.segments, KEYS) * groups, keys);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
