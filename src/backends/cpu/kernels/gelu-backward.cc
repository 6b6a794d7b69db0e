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
      const Line in(x, row, col), upstream(dy, row, col), out(dx, row, col);
      eachVector(n, [&](int64_t j, int64_t count) {
        const vf z = in.read(j, count);
        out.write(j, A::back(upstream.read(j, count), z, A::share(z)), count);
      });
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
