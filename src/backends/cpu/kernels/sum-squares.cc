// sum = Σ x² in double precision: an item owns a fixed stretch of the rows and leaves one partial sum in the scratch;
// the partial sums are added in order, so the bits do not depend on threads. Reads x once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void sumSquares(Context& context, const double* words, uint8_t* scratch) {
  Args args(words);
  const Tensor x = args.tensor(), out = args.tensor();
  const int64_t stretch = args.integer();  // elements of the matrix per partial sum, as the scratch was sized
  const int64_t total = x.rows * x.cols, count = ceilDiv(total, stretch);
  double* partial = reinterpret_cast<double*>(scratch);
  auto item = [&](int64_t i, int) {
    double lanes[8] = {};
    for (int64_t from = i * stretch; from < least(total, (i + 1) * stretch);) {
      const int64_t row = from / x.cols, col = from % x.cols;
      const int64_t n = least(x.cols - col, least(total, (i + 1) * stretch) - from);
      const float* values = at<float>(x, row, col);
      int64_t j = 0;
      for (; j + 8 <= n; j += 8)
        for (int lane = 0; lane < 8; lane++) lanes[lane] += static_cast<double>(values[j + lane]) * values[j + lane];
      for (; j < n; j++) lanes[0] += static_cast<double>(values[j]) * values[j];
      from += n;
    }
    double sum = 0;
    for (double lane : lanes) sum += lane;
    partial[i] = sum;
  };
  parallel(context, count, item);
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += partial[i];
  *at<float>(out, 0) = static_cast<float>(sum);
}

}  // namespace QDL_ISA
}  // namespace qdl
