// AdamW on rows from..to−1. An item owns a run of a row: reads p, g, m, v and writes p, m, v (and the bf16 copy), each
// once. Bias corrections are per row, in double precision.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void adamW(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor param = args.tensor(), gradient = args.tensor(), m = args.tensor(), v = args.tensor(), stepsTaken = args.tensor();
  const Tensor copy = args.tensor();
  const int64_t from = args.integer(), to = args.integer();
  const double learningRate = args.number(), beta1 = args.number(), beta2 = args.number();
  const float epsilon = static_cast<float>(args.number());
  const double weightDecay = args.number();
  const float scale = static_cast<float>(args.number());
  const float keep1 = static_cast<float>(beta1), take1 = static_cast<float>(1 - beta1);
  const float keep2 = static_cast<float>(beta2), take2 = static_cast<float>(1 - beta2);
  const float decay = static_cast<float>(learningRate * weightDecay);
  eachRun(context, to - from, param.cols, [&](int64_t offset, int64_t col, int64_t n) {
    const int64_t row = from + offset;
    const double count = *at<int32_t>(stepsTaken, row);
    const float rate = static_cast<float>(learningRate / (1 - std::pow(beta1, count)));
    const float correct2 = static_cast<float>(1 / (1 - std::pow(beta2, count)));
    const float* g = at<float>(gradient, row, col);
    float *p = at<float>(param, row, col), *first = at<float>(m, row, col), *second = at<float>(v, row, col);
#pragma GCC ivdep
    for (int64_t j = 0; j < n; j++) {
      const float slope = scale * g[j];
      const float mean = keep1 * first[j] + take1 * slope;
      const float square = keep2 * second[j] + take2 * slope * slope;
      first[j] = mean;
      second[j] = square;
      p[j] -= rate * mean / (__builtin_sqrtf(square * correct2) + epsilon) + decay * p[j];
    }
    if (copy.data) {
      if (copy.dtype == BF16)
        narrow(p, n, at<uint16_t>(copy, row, col));
      else
        memcpy(at<float>(copy, row, col), p, n * 4);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
