// What both forms of AdamW share: settings, the clipping factor, and the update of a run of one row.
#pragma once
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

struct AdamWSettings {
  int64_t from, to;
  double beta1, beta2, weightDecay, maxNorm;
  float epsilon;
  const double* learningRates;
};

QDL_INLINE AdamWSettings readAdamWSettings(Args& args, int64_t tensors) {
  AdamWSettings s;
  s.from = args.integer();
  s.to = args.integer();
  s.beta1 = args.number();
  s.beta2 = args.number();
  s.epsilon = static_cast<float>(args.number());
  s.weightDecay = args.number();
  s.maxNorm = args.number();
  s.learningRates = args.numbers(tensors);
  return s;
}

/** Factor that brings the gradient down to maxNorm; NaN if its norm is not finite: then nothing moves. */
QDL_INLINE float clipFactor(float squares, double maxNorm) {
  if (!(squares <= 3.402823466e38f)) return __builtin_nanf("");
  if (!(maxNorm > 0)) return 1;
  const double factor = maxNorm / (std::sqrt(static_cast<double>(squares)) + 1e-6);
  return static_cast<float>(factor < 1 ? factor : 1);
}

/** The numbers of one row's update: bias corrections are taken in double precision. */
struct RowUpdate {
  float scale, keep1, take1, keep2, take2, rate, correct2, epsilon, decay;
};

QDL_INLINE RowUpdate rowUpdate(const AdamWSettings& s, float scale, double learningRate, int32_t count) {
  RowUpdate u;
  u.scale = scale;
  u.keep1 = static_cast<float>(s.beta1);
  u.take1 = static_cast<float>(1 - s.beta1);
  u.keep2 = static_cast<float>(s.beta2);
  u.take2 = static_cast<float>(1 - s.beta2);
  u.rate = static_cast<float>(learningRate / (1 - std::pow(s.beta1, count)));
  u.correct2 = static_cast<float>(1 / (1 - std::pow(s.beta2, count)));
  u.epsilon = s.epsilon;
  u.decay = static_cast<float>(learningRate * s.weightDecay);
  return u;
}

/** n weights with their gradients and moments, in place. */
QDL_INLINE void updateRun(const RowUpdate& u, int64_t n, const float* g, float* p, float* first, float* second) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; j++) {
    const float slope = u.scale * g[j];
    const float mean = u.keep1 * first[j] + u.take1 * slope;
    const float square = u.keep2 * second[j] + u.take2 * slope * slope;
    first[j] = mean;
    second[j] = square;
    p[j] -= u.rate * mean / (__builtin_sqrtf(square * u.correct2) + u.epsilon) + u.decay * p[j];
  }
}

/** The compute copy of n weights, if there is one. */
QDL_INLINE void copyWeights(const Tensor& copy, int64_t row, int64_t col, int64_t n, const float* p) {
  if (copy.data) narrow(p, n, at<uint16_t>(copy, row, col));
}

}  // namespace QDL_ISA
}  // namespace qdl
