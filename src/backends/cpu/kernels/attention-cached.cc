// Attention of new query rows over a cache. An item owns either up to 96 neighbouring rows of a prompt and one head, or one
// row and all heads that share its keys: their part of o. It reads the keys and values that they see once, and writes o
// once. Rows of the cache that do not exist are not read.
#include "attention-row.h"

namespace qdl {
namespace QDL_ISA {

/** What each query row sees of the cache. */
struct CacheRows {
  Tensor slots, lengths;
  int64_t rows, cached;
  QDL_INLINE_MEMBER int64_t from(int64_t row) const { return most(0, *at<int32_t>(slots, row)); }
  QDL_INLINE_MEMBER int64_t to(int64_t row) const {
    return least(cached, static_cast<int64_t>(*at<int32_t>(slots, row)) + *at<int32_t>(lengths, row));
  }
  /** First row behind a tile that starts at `row`: rows of one sequence, each of which sees one key more than the last. */
  QDL_INLINE_MEMBER int64_t tileEnd(int64_t row) const {
    int64_t end = row + 1;
    if (to(row) > from(row))
      while (end < least(rows, row + QUERIES) && from(end) == from(row) && to(end) == to(end - 1) + 1) end++;
    return end;
  }
};

static void attentionCached(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor q = args.tensor(), kCache = args.tensor(), vCache = args.tensor(), slots = args.tensor();
  const Tensor lengths = args.tensor(), o = args.tensor();
  const Scoring scoring = scoringOf(args);
  const int64_t dim = scoring.dim, heads = q.cols / dim, share = heads / (kCache.cols / dim);
  const CacheRows seen = {slots, lengths, q.rows, kCache.rows};
  int64_t tiles = 0;
  for (int64_t row = 0; row < q.rows; row = seen.tileEnd(row)) tiles++;
  withCompute(q.dtype, [&](auto compute) {
    auto item = [&](int64_t i, int thread) {
      const int64_t head = i % heads, keyCol = head / share * dim;
      int64_t row = 0;
      for (int64_t tile = i / heads; tile > 0; tile--) row = seen.tileEnd(row);
      const int64_t rows = seen.tileEnd(row) - row, from = most(seen.from(row), seen.to(row) - scoring.window);
      const int64_t keys = seen.to(row + rows - 1) - from;
      if (keys <= 0) return zeroRow(o, row, head * dim, dim);
      const Tensor k = window(kCache, from, keys, keyCol, dim), v = window(vCache, from, keys, keyCol, dim);
      AttentionTile tile = {{}, k, v, {}, {}, seen.to(row) - from, 1};
      if (rows > 1) {
        tile.q = window(q, row, rows, head * dim, dim);
        tile.o = window(o, row, rows, head * dim, dim);
        return attentionTile<decltype(compute)>(context.workspaces[thread], tile, scoring);
      }
      // The first of the heads that share keys stands for all.
      if (head % share % QUERIES != 0) return;
      const int64_t together = least(QUERIES, share - head % share);
      tile.q = window(q, row, together, head * dim, dim, dim);
      tile.o = window(o, row, together, head * dim, dim, dim);
      attentionRow<decltype(compute)>(context.workspaces[thread], tile, scoring);
    };
    parallel(context, tiles * heads, item);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
