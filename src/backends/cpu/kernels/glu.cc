// y = a(gate)·up for an activation a. An item owns a run of elements; reads gate and up, writes y, each once.
#include "activation.h"
#include "args.h"

namespace qdl {
namespace QDL_ISA {

static void glu(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor gate = args.tensor(), up = args.tensor(), y = args.tensor();
  withActivation(args.integer(), [&](auto activation) {
    typedef decltype(activation) A;
    eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
      float bufferG[RUN], bufferU[RUN], bufferY[RUN];
      const float* g = read(gate, row, col, n, bufferG);
      const float* u = read(up, row, col, n, bufferU);
      float* out = target(y, row, col, bufferY);
      eachVector(n, [&](int64_t j, int64_t count) {
        const vf z = loadFirst(g + j, count);
        storeFirst(out + j, count, z * A::share(z) * loadFirst(u + j, count));
      });
      commit(y, row, col, n, out);
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
