// cache[rows[i]] = x[i]; a row outside the cache is not written. An item owns whole rows of x.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void kvAppend(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), rows = args.tensor(), cache = args.tensor();
  eachRow(context, x.rows, x.cols, [&](int64_t i) {
    const int64_t row = *at<int32_t>(rows, i);
    if (row < 0 || row >= cache.rows) return;
    if (x.dtype == cache.dtype)
      memcpy(address(cache, row, 0), address(x, i, 0), x.cols * (x.dtype == BF16 ? 2 : 4));
    else if (cache.dtype == F32)
      widen(at<uint16_t>(x, i), x.cols, at<float>(cache, row));
    else
      narrow(at<float>(x, i), x.cols, at<uint16_t>(cache, row));
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
