// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)), in f32. An item owns whole rows; x, dy and dx are read once from memory (the
// second pass finds them in L1/L2), dx is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void rmsNormBackward(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), rstd = args.tensor(), dy = args.tensor(), dx = args.tensor();
  eachRow(context, x.rows, x.cols, [&](int64_t row) {
    float bufferX[RUN], bufferW[RUN], bufferDy[RUN], bufferDx[RUN], product[RUN];
    const float scale = *at<float>(rstd, row);
    vf inner = {};
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      const float* gradient = read(dy, row, col, n, bufferDy);
      const float* gain = read(weight, 0, col, n, bufferW);
      for (int64_t j = 0; j < n; j++) product[j] = gradient[j] * gain[j];
      inner = dotRun(read(x, row, col, n, bufferX), product, n, inner);
    }
    const float pull = scale * scale * sum(inner) / x.cols;
    for (int64_t col = 0; col < x.cols; col += RUN) {
      const int64_t n = least(RUN, x.cols - col);
      const float* gradient = read(dy, row, col, n, bufferDy);
      const float* gain = read(weight, 0, col, n, bufferW);
      const float* values = read(x, row, col, n, bufferX);
      const float* before = read(dx, row, col, n, bufferDx);
      float* out = target(dx, row, col, bufferDx);
      for (int64_t j = 0; j < n; j++) out[j] = before[j] + scale * (gradient[j] * gain[j] - values[j] * pull);
      commit(dx, row, col, n, out);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
