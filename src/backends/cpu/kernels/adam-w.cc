// AdamW on rows from..to−1 of every tensor of a list. An item owns runs of rows: reads p, g, m, v and writes p, m, v (and
// the bf16 copy), each once.
#include "adam-w.h"

namespace qdl {
namespace QDL_ISA {

static void adamW(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensors params = args.tensors(), gradients = args.tensors(), ms = args.tensors(), vs = args.tensors();
  const Tensors copies = args.tensors();
  const Tensor counts = args.tensor(), squares = args.tensor();
  const AdamWSettings settings = readAdamWSettings(args, params.count);
  const float scale = clipFactor(*at<float>(squares, 0), settings.maxNorm);
  if (scale != scale) return;
  for (int64_t t = 0; t < params.count; t++) {
    const Tensor param = params[t], gradient = gradients[t], m = ms[t], v = vs[t], copy = copies[t];
    eachRun(context, settings.to - settings.from, param.cols, [&](int64_t offset, int64_t col, int64_t n) {
      const int64_t row = settings.from + offset;
      const RowUpdate update = rowUpdate(settings, scale, settings.learningRates[t], *at<int32_t>(counts, row));
      float* p = at<float>(param, row, col);
      updateRun(update, n, at<float>(gradient, row, col), p, at<float>(m, row, col), at<float>(v, row, col));
      copyWeights(copy, row, col, n, p);
    });
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
