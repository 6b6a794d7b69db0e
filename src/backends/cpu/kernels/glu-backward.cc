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
      float bufferG[RUN], bufferU[RUN], bufferDy[RUN], bufferDg[RUN], bufferDu[RUN];
      const float* g = read(gate, row, col, n, bufferG);
      const float* u = read(up, row, col, n, bufferU);
      const float* dOut = read(dy, row, col, n, bufferDy);
      float* dg = target(dGate, row, col, bufferDg);
      float* du = target(dUp, row, col, bufferDu);
      eachVector(n, [&](int64_t j, int64_t count) {
        // All three are read before anything is written: the outputs may be the inputs.
        const vf z = loadFirst(g + j, count), factor = loadFirst(u + j, count), d = loadFirst(dOut + j, count);
        const vf s = A::share(z);
        storeFirst(du + j, count, d * z * s);
        storeFirst(dg + j, count, A::back(d * factor, z, s));
      });
      commit(dGate, row, col, n, dg);
      commit(dUp, row, col, n, du);
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
