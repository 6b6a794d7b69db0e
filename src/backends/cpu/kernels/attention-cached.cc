// Attention of single query rows over a cache. An item owns one query row and head; it reads the keys and values that the
// row sees once, and writes its part of o once. Rows of the cache that do not exist are not read.
#include "rows.h"
#include "args.h"

namespace qdl {
namespace QDL_ISA {

static void attentionCached(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor q = args.tensor(), kCache = args.tensor(), vCache = args.tensor(), slots = args.tensor();
  const Tensor lengths = args.tensor(), o = args.tensor();
  const int64_t dim = args.integer();
  const float scale = static_cast<float>(args.number());
  const int64_t heads = q.cols / dim, share = heads / (kCache.cols / dim);
  constexpr int64_t CHUNK = 128;
  constexpr int64_t MAX_DIM = 1024;
  eachRow(context, q.rows * heads, 128 * dim, [&](int64_t item) {
    const int64_t row = item / heads, head = item % heads, col = head / share * dim;
    const int64_t slot = *at<int32_t>(slots, row), length = *at<int32_t>(lengths, row);
    const int64_t from = most(0, slot), to = least(kCache.rows, slot + length);
    float query[MAX_DIM], buffer[MAX_DIM], out[MAX_DIM] = {}, scores[CHUNK];
    const float* given = read(q, row, head * dim, dim, query);
    for (int64_t j = 0; j < dim; j++) query[j] = given[j] * scale;
    float largest = -INFINITY, total = 0;
    for (int64_t key = from; key < to; key += CHUNK) {
      const int64_t keys = least(CHUNK, to - key);
      float now = largest;
      for (int64_t j = 0; j < keys; j++) {
        scores[j] = dotRow(query, read(kCache, key + j, col, dim, buffer), dim);
        now = scores[j] > now ? scores[j] : now;
      }
      for (int64_t j = keys; j < roundUp(keys, LANES); j++) scores[j] = -INFINITY;
      const float shrink = exponential(splat(largest - now))[0];
      total *= shrink;
      for (int64_t j = 0; j < dim; j++) out[j] *= shrink;
      for (int64_t j = 0; j < keys; j += LANES) {
        const vf e = exponential(load<vf>(scores + j) - splat(now));
        store(scores + j, e);
        total += sum(e);
      }
      largest = now;
      for (int64_t j = 0; j < keys; j++) {
        const float* value = read(vCache, key + j, col, dim, buffer);
        const float weight = scores[j];
        for (int64_t c = 0; c < dim; c++) out[c] += weight * value[c];
      }
    }
    const float factor = to > from ? 1 / total : 0;
    float rounded[MAX_DIM];
    float* result = target(o, row, head * dim, rounded);
    for (int64_t j = 0; j < dim; j++) result[j] = out[j] * factor;
    commit(o, row, head * dim, dim, result);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
