// sum = Σ x² over a list of tensors, in double precision: an item owns a fixed stretch of one tensor and leaves one partial
// sum in the scratch; the partial sums are added in order, so the bits do not depend on threads. Reads every x once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

/** Elements first..last−1 of a matrix, counted row by row. */
QDL_INLINE double squaresOf(const Tensor& x, int64_t first, int64_t last) {
  double lanes[8] = {};
  for (int64_t from = first; from < last;) {
    const int64_t row = from / x.cols, col = from % x.cols;
    const int64_t n = least(x.cols - col, last - from);
    const float* values = at<float>(x, row, col);
    int64_t j = 0;
    for (; j + 8 <= n; j += 8)
      for (int lane = 0; lane < 8; lane++) lanes[lane] += static_cast<double>(values[j + lane]) * values[j + lane];
    for (; j < n; j++) lanes[0] += static_cast<double>(values[j]) * values[j];
    from += n;
  }
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

static void sumSquares(Context& context, const double* words, uint8_t* scratch) {
  Args args(words);
  const Tensors xs = args.tensors();
  const Tensor out = args.tensor();
  const int64_t stretch = args.integer();  // elements of a matrix per partial sum, as the scratch was sized
  double* partial = reinterpret_cast<double*>(scratch);
  int64_t count = 0;
  for (int64_t t = 0; t < xs.count; t++) {
    const Tensor x = xs[t];
    const int64_t total = x.rows * x.cols, stretches = ceilDiv(total, stretch);
    double* sums = partial + count;
    auto item = [&](int64_t i, int) { sums[i] = squaresOf(x, i * stretch, least(total, (i + 1) * stretch)); };
    parallel(context, stretches, item);
    count += stretches;
  }
  double sum = 0;
  for (int64_t i = 0; i < count; i++) sum += partial[i];
  *at<float>(out, 0) = static_cast<float>(sum);
}

}  // namespace QDL_ISA
}  // namespace qdl
