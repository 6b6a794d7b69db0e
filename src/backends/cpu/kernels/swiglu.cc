// y = gate·σ(gate)·up. An item owns a run of elements; reads gate and up, writes y, each once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

/** σ(z) for n values. */
QDL_INLINE void sigmoidRun(const float* z, int64_t n, float* out) {
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) store(out + j, splat(1) / (splat(1) + exponential(-load<vf>(z + j))));
  if (j < n) {
    float last[LANES] = {};
    memcpy(last, z + j, (n - j) * 4);
    store(last, splat(1) / (splat(1) + exponential(-load<vf>(last))));
    memcpy(out + j, last, (n - j) * 4);
  }
}

static void swiglu(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor gate = args.tensor(), up = args.tensor(), y = args.tensor();
  eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
    float bufferG[RUN], bufferU[RUN], bufferY[RUN], sigma[RUN];
    const float* g = read(gate, row, col, n, bufferG);
    const float* u = read(up, row, col, n, bufferU);
    float* out = target(y, row, col, bufferY);
    sigmoidRun(g, n, sigma);
    for (int64_t j = 0; j < n; j++) out[j] = g[j] * sigma[j] * u[j];
    commit(y, row, col, n, out);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
