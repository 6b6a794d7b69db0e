// Causal attention within segments. An item owns up to 96 query rows of one segment and head: their o and lse. q is read
// once, the keys and values that they see once per item, o and lse written once.
#include "attention-tile.h"

namespace qdl {
namespace QDL_ISA {

static void attention(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor q = args.tensor(), k = args.tensor(), v = args.tensor(), starts = args.tensor(), o = args.tensor();
  const Tensor lse = args.tensor();
  const Scoring scoring = scoringOf(args);
  const int64_t dim = scoring.dim, heads = q.cols / dim, share = heads / (k.cols / dim);
  const Segments segments = {starts, q.rows};
  zeroPadding(context, segments, o);
  zeroPadding(context, segments, lse);
  withCompute(q.dtype, [&](auto compute) {
    auto item = [&](int64_t i, int thread) {
      const int64_t head = i % heads, keyCol = head / share * dim;
      const SegmentTile t = tileAt(segments, QUERIES, i / heads);
      const int64_t first = most(t.start, t.from + 1 - scoring.window), rows = t.to - t.from, keys = t.to - first;
      const AttentionTile tile = {window(q, t.from, rows, head * dim, dim), window(k, first, keys, keyCol, dim),
                                  window(v, first, keys, keyCol, dim),      window(o, t.from, rows, head * dim, dim),
                                  window(lse, t.from, rows, head, 1),       t.from + 1 - first};
      attentionTile<decltype(compute)>(context.workspaces[thread], tile, scoring);
    };
    parallel(context, tilesOf(segments, QUERIES) * heads, item);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
