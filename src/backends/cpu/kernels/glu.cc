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
      const Line g(gate, row, col), u(up, row, col), out(y, row, col);
      eachVector(n, [&](int64_t j, int64_t count) {
        const vf z = g.read(j, count);
        out.write(j, z * A::share(z) * u.read(j, count), count);
      });
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
