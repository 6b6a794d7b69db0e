// Attention of new query rows over a cache. An item owns either up to 96 neighbouring rows of a prompt and one head (their
// part of o), or one row, up to 96 heads and a part of its keys; the last item of a row to end puts its parts together.
// Rows of the cache that do not exist are not read.
#include "attention-row.h"

namespace qdl {
namespace QDL_ISA {

/** Parts are cut where this divides the number of a key. */
constexpr int64_t PART_GRAIN = 16;

/** What each query row sees of the cache. */
struct CacheRows {
  Tensor slots, lengths;
  int64_t rows, cached, window, mostParts;
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
  /** First key that a row sees, and how many. */
  QDL_INLINE_MEMBER int64_t first(int64_t row) const { return most(from(row), to(row) - window); }
  QDL_INLINE_MEMBER int64_t keys(int64_t row) const { return most(0, to(row) - first(row)); }
  /** Parts of a row's keys: an even number, since threads mostly are, of at most KEYS keys as far as `mostParts` allows. */
  QDL_INLINE_MEMBER int64_t parts(int64_t row) const {
    if (keys(row) <= KEYS) return 1;
    return most(1, least(mostParts, 2 * ceilDiv(ceilDiv(keys(row), PART_GRAIN), 2 * KEYS / PART_GRAIN)));
  }
  /** Where a part of a row begins, counted from its first key. */
  QDL_INLINE_MEMBER int64_t partStart(int64_t row, int64_t part) const {
    return least(keys(row), part * ceilDiv(keys(row), PART_GRAIN) / parts(row) * PART_GRAIN);
  }
};

static void attentionCached(Context& context, const double* words, uint8_t* scratch) {
  Args args(words);
  const Tensor q = args.tensor(), kCache = args.tensor(), vCache = args.tensor(), slots = args.tensor();
  const Tensor lengths = args.tensor(), o = args.tensor();
  const Scoring scoring = scoringOf(args);
  const int64_t dim = scoring.dim, heads = q.cols / dim, share = heads / (kCache.cols / dim);
  // Heads of an item of one row, and parts of all rows.
  const int64_t together = args.integer(), allParts = args.integer(), chunks = ceilDiv(heads, together);
  const CacheRows seen = {slots, lengths, q.rows, kCache.rows, scoring.window, allParts / most(1, q.rows)};
  const auto isRow = [&](int64_t row) { return seen.tileEnd(row) == row + 1; };
  const auto itemsOf = [&](int64_t row) { return isRow(row) ? seen.parts(row) * chunks : heads; };
  int64_t items = 0;
  for (int64_t row = 0; row < q.rows; row = seen.tileEnd(row)) items += itemsOf(row);

  /** Item `item` of the tile that starts at `row`. */
  struct Place {
    int64_t row, item;
  };
  const auto placeOf = [&](int64_t item) {
    int64_t row = 0;
    for (; item >= itemsOf(row); row = seen.tileEnd(row)) item -= itemsOf(row);
    return Place{row, item};
  };
  const auto rowAt = [&](const Place& place) {
    const int64_t row = place.row, head = place.item % chunks * together, count = least(together, heads - head);
    const int64_t from = seen.partStart(row, place.item / chunks), keys = seen.partStart(row, place.item / chunks + 1) - from;
    const int64_t key = seen.first(row) + from, col = head / share * dim, cols = ceilDiv(count, share) * dim;
    return AttentionRow{window(q, row, count, head * dim, dim, dim), window(o, row, count, head * dim, dim, dim),
                        window(kCache, key, keys, col, cols), window(vCache, key, keys, col, cols), share};
  };

  // Of each row and its heads that are an item: how many parts have ended, and all of them side by side.
  const int64_t partFloats = RowPart::room(together, dim);
  int64_t* ended = reinterpret_cast<int64_t*>(scratch);
  float* parts = reinterpret_cast<float*>(ended + allParts * chunks);
  memset(ended, 0, allParts * chunks * sizeof *ended);
  withCompute(q.dtype, [&](auto compute) {
    typedef decltype(compute) C;
    auto item = [&](int64_t i, int thread) {
      const Place place = placeOf(i);
      const int64_t row = place.row;
      if (!isRow(row)) {
        const int64_t rows = seen.tileEnd(row) - row, first = seen.first(row), keys = seen.to(row + rows - 1) - first;
        const int64_t col = place.item * dim, keyCol = place.item / share * dim;
        const AttentionTile tile = {window(q, row, rows, col, dim), window(kCache, first, keys, keyCol, dim),
                                    window(vCache, first, keys, keyCol, dim), window(o, row, rows, col, dim), {},
                                    seen.to(row) - first};
        return attentionTile<C>(context.workspaces[thread], tile, scoring);
      }
      const AttentionRow own = rowAt(place);
      if (seen.keys(row) == 0) return zeroRow(o, row, place.item * together * dim, own.q.rows * dim);
      const bool another = i + context.threads < items;
      const Place following = another ? placeOf(i + context.threads) : Place{};
      const Tensor next = another && isRow(following.row) ? rowAt(following).k : Tensor{};
      if (i < context.threads) Ahead(own.k, least(KEYS, own.k.rows), 0, own.k.cols, 1).step();
      Arena arena(context.workspaces[thread]);
      const int64_t count = seen.parts(row), part = place.item / chunks, chunk = row * chunks + place.item % chunks;
      float* first = count == 1 ? arena.take<float>(partFloats) : parts + chunk * seen.mostParts * partFloats;
      attentionPart<C>(arena, own, next, scoring, RowPart(first + part * partFloats, own.q.rows));
      if (count == 1 || __atomic_add_fetch(ended + chunk, 1, __ATOMIC_ACQ_REL) == count) joinParts(first, count, partFloats, own.o);
    };
    parallel(context, items, item);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
