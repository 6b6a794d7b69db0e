// y[n] = scale·table[tokens[n]], zeros for a token outside the table. An item owns whole rows of y; a row is read and written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void embed(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor table = args.tensor(), tokens = args.tensor(), y = args.tensor();
  const float scale = static_cast<float>(args.number());
  eachRow(context, y.rows, y.cols, [&](int64_t n) {
    const int64_t token = *at<int32_t>(tokens, n);
    if (token < 0 || token >= table.rows) return zeroRow(y, n, 0, y.cols);
    if (scale != 1)
      for (int64_t col = 0; col < y.cols; col += RUN) {
        float bufferX[RUN], bufferY[RUN];
        const int64_t count = least(RUN, y.cols - col);
        const float* values = read(table, token, col, count, bufferX);
        float* out = target(y, n, col, bufferY);
        for (int64_t j = 0; j < count; j++) out[j] = scale * values[j];
        if (y.dtype == BF16) narrow(out, count, at<uint16_t>(y, n, col));
      }
    else if (table.dtype == y.dtype)
      memcpy(address(y, n, 0), address(table, token, 0), y.cols * (y.dtype == BF16 ? 2 : 4));
    else if (y.dtype == F32)
      widen(at<uint16_t>(table, token), y.cols, at<float>(y, n));
    else
      narrow(at<float>(table, token), y.cols, at<uint16_t>(y, n));
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
