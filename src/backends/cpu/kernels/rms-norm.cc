// y = x·rstd·weight, rstd = 1/√(mean(x²) + eps), in f32, for each group of as many columns as the weight has. An item owns
// whole groups; x is read from memory once (the second pass finds it in L1/L2), y is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void rmsNorm(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), y = args.tensor(), rstd = args.tensor();
  const double eps = args.number();
  const int64_t width = weight.cols, groups = rstd.cols;
  eachRow(context, x.rows * groups, width, [&](int64_t i) {
    const int64_t row = i / groups, group = i % groups, first = group * width;
    float bufferX[RUN], bufferW[RUN], bufferY[RUN];
    vf squares = {};
    for (int64_t col = 0; col < width; col += RUN) {
      const int64_t n = least(RUN, width - col);
      const float* values = read(x, row, first + col, n, bufferX);
      squares = dotRun(values, values, n, squares);
    }
    const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(sum(squares)) / width + eps));
    *at<float>(rstd, row, group) = scale;
    for (int64_t col = 0; col < width; col += RUN) {
      const int64_t n = least(RUN, width - col);
      const float* values = read(x, row, first + col, n, bufferX);
      const float* gain = read(weight, 0, col, n, bufferW);
      float* out = target(y, row, first + col, bufferY);
      for (int64_t j = 0; j < n; j++) out[j] = values[j] * scale * gain[j];
      commit(y, row, first + col, n, out);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
