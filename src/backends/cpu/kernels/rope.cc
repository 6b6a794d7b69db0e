// Rotates each head of a row by the angles of that row; y may be x. An item owns whole rows; reads x and the table, writes
// y once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void rope(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), cosSin = args.tensor(), y = args.tensor();
  const float sign = args.integer() == 0 ? 1.0f : -1.0f;
  const int64_t dim = cosSin.cols, half = dim / 2;
  eachRow(context, x.rows, x.cols, [&](int64_t row) {
    float lowX[RUN], highX[RUN], lowY[RUN], highY[RUN];
    const float* table = at<float>(cosSin, row);
    for (int64_t head = 0; head + dim <= x.cols; head += dim)
      for (int64_t i = 0; i < half; i += RUN) {
        const int64_t n = least(RUN, half - i);
        const float* a = read(x, row, head + i, n, lowX);
        const float* b = read(x, row, head + half + i, n, highX);
        const float *c = table + i, *s = table + half + i;
        for (int64_t j = 0; j < n; j++) {
          const float sine = sign * s[j];
          const float low = a[j] * c[j] - b[j] * sine;
          highY[j] = b[j] * c[j] + a[j] * sine;
          lowY[j] = low;
        }
        if (y.dtype == F32) {
          memcpy(at<float>(y, row, head + i), lowY, n * 4);
          memcpy(at<float>(y, row, head + half + i), highY, n * 4);
        } else {
          narrow(lowY, n, at<uint16_t>(y, row, head + i));
          narrow(highY, n, at<uint16_t>(y, row, head + half + i));
        }
      }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
