// What both forms of AdamW share: the settings of a step, which rows a block takes, and the update of one weight.

struct AdamWSettings {
  double beta1, beta2, max_norm, weight_decay;
  float epsilon;
  u32 tensors;
};

/** Factor that brings the gradient down to max_norm; NaN if its norm is not finite: then nothing moves. */
__device__ __forceinline__ float clip_factor(float squares, double max_norm) {
  if (!(squares <= 3.402823466e38f)) return __uint_as_float(0x7fc00000u);
  if (!(max_norm > 0)) return 1.0f;
  const double factor = max_norm / (sqrt((double)squares) + 1e-6);
  return factor < 1 ? (float)factor : 1.0f;
}

/** The numbers of one row's update: bias corrections are taken in f64. */
struct RowUpdate {
  float scale, keep1, take1, keep2, take2, rate, correct2, epsilon, decay;
};

__device__ __forceinline__ RowUpdate row_update(const AdamWSettings &s, float scale, double learning_rate, int count) {
  RowUpdate u;
  u.scale = scale;
  u.keep1 = (float)s.beta1;
  u.take1 = (float)(1.0 - s.beta1);
  u.keep2 = (float)s.beta2;
  u.take2 = (float)(1.0 - s.beta2);
  u.rate = (float)(learning_rate / (1.0 - pow(s.beta1, (double)count)));
  u.correct2 = (float)(1.0 / (1.0 - pow(s.beta2, (double)count)));
  u.epsilon = s.epsilon;
  u.decay = (float)(learning_rate * s.weight_decay);
  return u;
}

/** One weight with its gradient and moments, in place. */
__device__ __forceinline__ void update(const RowUpdate &u, float g, float &p, float &first, float &second) {
  const float slope = u.scale * g;
  first = u.keep1 * first + u.take1 * slope;
  second = u.keep2 * second + u.take2 * slope * slope;
  p -= u.rate * first / (sqrtf(second * u.correct2) + u.epsilon) + u.decay * p;
}
