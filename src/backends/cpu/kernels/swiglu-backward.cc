// dUp = dy·gate·σ, dGate = dy·up·σ·(1 + gate·(1 − σ)); dGate may be gate, dUp may be up or dy. An item owns a run of
// elements; reads three inputs and writes two outputs, each once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void swigluBackward(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor gate = args.tensor(), up = args.tensor(), dy = args.tensor(), dGate = args.tensor(), dUp = args.tensor();
  eachRun(context, dy.rows, dy.cols, [&](int64_t row, int64_t col, int64_t n) {
    float bufferG[RUN], bufferU[RUN], bufferDy[RUN], sigma[RUN], outG[RUN], outU[RUN];
    const float* g = read(gate, row, col, n, bufferG);
    const float* u = read(up, row, col, n, bufferU);
    const float* d = read(dy, row, col, n, bufferDy);
    sigmoidRun(g, n, sigma);
    for (int64_t j = 0; j < n; j++) {
      outU[j] = d[j] * g[j] * sigma[j];
      outG[j] = d[j] * u[j] * sigma[j] * (1 + g[j] * (1 - sigma[j]));
    }
    // Both are written after all three inputs were read: the outputs may be the inputs.
    if (dGate.dtype == F32) memcpy(at<float>(dGate, row, col), outG, n * 4);
    if (dUp.dtype == F32) memcpy(at<float>(dUp, row, col), outU, n * 4);
    commit(dGate, row, col, n, outG);
    commit(dUp, row, col, n, outU);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
