// Rotates the first columns of each head of a row by the angles of that row, the others pass; y may be x. An item owns whole rows; reads x and the table, writes
// y once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

/** Head dims beyond this do not exist (kernels.ts refuses them); the buffers hold several smaller heads. */
constexpr int64_t LARGEST_DIM = 1024;

static void rope(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), cosSin = args.tensor(), y = args.tensor();
  const int64_t dim = args.integer();
  const float sign = args.integer() == 0 ? 1.0f : -1.0f;
  const int64_t turned = cosSin.cols, half = turned / 2;
  // Whole heads at a time, as many as fit the buffers.
  const int64_t width = most(1, LARGEST_DIM / dim) * dim;
  eachRow(context, x.rows, x.cols, [&](int64_t row) {
    float bufferX[LARGEST_DIM], bufferY[LARGEST_DIM];
    const float *cosine = at<float>(cosSin, row), *sine = cosine + half;
    for (int64_t col = 0; col < x.cols; col += width) {
      const int64_t n = least(width, x.cols - col);
      const float* in = read(x, row, col, n, bufferX);
      float* out = target(y, row, col, bufferY);
      for (int64_t head = 0; head + dim <= n; head += dim) {
        const float *a = in + head, *b = a + half;
        float *low = out + head, *high = low + half;
#pragma GCC ivdep
        for (int64_t j = 0; j < half; j++) {
          const float first = a[j], second = b[j], turn = sign * sine[j];
          low[j] = first * cosine[j] - second * turn;
          high[j] = second * cosine[j] + first * turn;
        }
        if (in != out) copyRun(a + turned, dim - turned, low + turned);
      }
      commit(y, row, col, n, out);
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
