// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)), in f32, for each group of as many columns as the weight has. An item owns whole
// groups; x, dy and dx are read once from memory (the second pass finds them in L1/L2), dx is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void rmsNormBackward(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), rstd = args.tensor(), dy = args.tensor(), dx = args.tensor();
  const int64_t width = weight.cols, groups = rstd.cols;
  eachRow(context, x.rows * groups, width, [&](int64_t i) {
    const int64_t row = i / groups, group = i % groups, first = group * width;
    float bufferX[RUN], bufferW[RUN], bufferDy[RUN], bufferDx[RUN], product[RUN];
    const float scale = *at<float>(rstd, row, group);
    vf inner = {};
    for (int64_t col = 0; col < width; col += RUN) {
      const int64_t n = least(RUN, width - col);
      const float* gradient = read(dy, row, first + col, n, bufferDy);
      const float* gain = read(weight, 0, col, n, bufferW);
      for (int64_t j = 0; j < n; j++) product[j] = gradient[j] * gain[j];
      inner = dotRun(read(x, row, first + col, n, bufferX), product, n, inner);
    }
    const float pull = scale * scale * sum(inner) / width;
    for (int64_t col = 0; col < width; col += RUN) {
      const int64_t n = least(RUN, width - col);
      const float* gradient = read(dy, row, first + col, n, bufferDy);
      const float* gain = read(weight, 0, col, n, bufferW);
      const float* values = read(x, row, first + col, n, bufferX);
      const float* before = read(dx, row, first + col, n, bufferDx);
      float* out = target(dx, row, first + col, bufferDx);
      for (int64_t j = 0; j < n; j++) out[j] = before[j] + scale * (gradient[j] * gain[j] - values[j] * pull);
      commit(dx, row, first + col, n, out);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
