// y = gelu(x). An item owns a run of elements; reads x, writes y, each once.
#include "activation.h"
#include "args.h"

namespace qdl {
namespace QDL_ISA {

static void gelu(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), y = args.tensor();
  withActivation(args.integer(), [&](auto activation) {
    typedef decltype(activation) A;
    eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
      float bufferX[RUN], bufferY[RUN];
      const float* in = read(x, row, col, n, bufferX);
      float* out = target(y, row, col, bufferY);
      eachVector(n, [&](int64_t j, int64_t count) {
        const vf z = loadFirst(in + j, count);
        storeFirst(out + j, count, z * A::share(z));
      });
      commit(y, row, col, n, out);
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
