// With g = dy⊙weight and x̂ = (x − mean)·rstd: dx += rstd·(g − mean(g) − x̂·mean(g⊙x̂)), in f32. An item owns whole rows; x, dy
// and dx are read once from memory (the second pass finds them in L1/L2), dx is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void layerNormBackward(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), mean = args.tensor(), rstd = args.tensor(), dy = args.tensor();
  const Tensor dx = args.tensor();
  eachRow(context, x.rows, x.cols, [&](int64_t row) {
    float bufferX[RUN], bufferW[RUN], bufferDy[RUN], bufferDx[RUN], upstream[RUN], normalised[RUN];
    const float centre = *at<float>(mean, row), scale = *at<float>(rstd, row);
    const auto readRun = [&](int64_t col, int64_t n) {
      const float* gradient = read(dy, row, col, n, bufferDy);
      const float* gain = read(weight, 0, col, n, bufferW);
      const float* values = read(x, row, col, n, bufferX);
      for (int64_t j = 0; j < n; j++) {
        upstream[j] = gradient[j] * gain[j];
        normalised[j] = (values[j] - centre) * scale;
      }
    };
    float total = 0;
    vf inner = {};
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      readRun(col, n);
      total += sumRun(upstream, n);
      inner = dotRun(upstream, normalised, n, inner);
    }
    const float level = total / x.cols, pull = sum(inner) / x.cols;
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      readRun(col, n);
      const float* before = read(dx, row, col, n, bufferDx);
      float* out = target(dx, row, col, bufferDx);
      for (int64_t j = 0; j < n; j++) out[j] = before[j] + scale * (upstream[j] - level - normalised[j] * pull);
      commit(dx, row, col, n, out);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
