// dx = dy·gelu'(x); dx may be x or dy. An item owns a run of elements; reads x and dy, writes dx, each once.
#include "activation.h"
#include "args.h"

namespace qdl {
namespace QDL_ISA {

static void geluBackward(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), dy = args.tensor(), dx = args.tensor();
  withActivation(args.integer(), [&](auto activation) {
    typedef decltype(activation) A;
    eachRun(context, dx.rows, dx.cols, [&](int64_t row, int64_t col, int64_t n) {
      float bufferX[RUN], bufferDy[RUN], bufferDx[RUN];
      const float* in = read(x, row, col, n, bufferX);
      const float* upstream = read(dy, row, col, n, bufferDy);
      float* out = target(dx, row, col, bufferDx);
      eachVector(n, [&](int64_t j, int64_t count) {
        const vf z = loadFirst(in + j, count);
        storeFirst(out + j, count, A::back(loadFirst(upstream + j, count), z, A::share(z)));
      });
      commit(dx, row, col, n, out);
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
