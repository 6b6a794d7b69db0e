// y = a + b; y may be a or b. Reads a and b, writes y, each once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void add(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor a = args.tensor(), b = args.tensor(), y = args.tensor();
  eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
    float bufferA[RUN], bufferB[RUN], bufferY[RUN];
    const float* left = read(a, row, col, n, bufferA);
    const float* right = read(b, row, col, n, bufferB);
    float* sum = target(y, row, col, bufferY);
#pragma GCC ivdep
    for (int64_t j = 0; j < n; j++) sum[j] = left[j] + right[j];
    commit(y, row, col, n, sum);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
