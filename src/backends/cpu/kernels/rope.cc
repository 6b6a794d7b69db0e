// Rotates the first columns of each head of a row by the angles of that row, the others pass; y may be x. An item owns whole rows; reads x and the table, writes
// y once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void rope(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), cosSin = args.tensor(), y = args.tensor();
  const int64_t dim = args.integer();
  const float sign = args.integer() == 0 ? 1.0f : -1.0f;
  const int64_t turned = cosSin.cols, half = turned / 2;
  eachRow(context, x.rows, x.cols, [&](int64_t row) {
    const Line cosine(cosSin, row, 0), sine(cosSin, row, half);
    for (int64_t head = 0; head + dim <= x.cols; head += dim) {
      const Line a(x, row, head), b(x, row, head + half), low(y, row, head), high(y, row, head + half);
      eachVector(half, [&](int64_t j, int64_t count) {
        const vf first = a.read(j, count), second = b.read(j, count);
        const vf c = cosine.read(j, count), turn = splat(sign) * sine.read(j, count);
        low.write(j, first * c - second * turn, count);
        high.write(j, second * c + first * turn, count);
      });
      if (x.data == y.data) continue;
      const Line rest(x, row, head + turned), copy(y, row, head + turned);
      eachVector(dim - turned, [&](int64_t j, int64_t count) { copy.write(j, rest.read(j, count), count); });
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
