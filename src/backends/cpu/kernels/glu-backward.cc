// dUp = dy·a(gate), dGate = dy·up·a'(gate) for an activation a; dGate may be gate, dUp may be up or dy. An item owns a run
// of elements; reads three inputs and writes two outputs, each once.
#include "activation.h"
#include "args.h"

namespace qdl {
namespace QDL_ISA {

static void gluBackward(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor gate = args.tensor(), up = args.tensor(), dy = args.tensor(), dGate = args.tensor(), dUp = args.tensor();
  withActivation(args.integer(), [&](auto activation) {
    typedef decltype(activation) A;
    eachRun(context, dy.rows, dy.cols, [&](int64_t row, int64_t col, int64_t n) {
      const Line g(gate, row, col), u(up, row, col), dOut(dy, row, col), dg(dGate, row, col), du(dUp, row, col);
      eachVector(n, [&](int64_t j, int64_t count) {
        // All three are read before anything is written: the outputs may be the inputs.
        const vf z = g.read(j, count), factor = u.read(j, count), d = dOut.read(j, count);
        const vf s = A::share(z);
        du.write(j, d * z * s, count);
        dg.write(j, A::back(d * factor, z, s), count);
      });
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
