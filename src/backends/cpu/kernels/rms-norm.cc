// y = x·rstd·weight, rstd = 1/√(mean(x²) + eps), in f32, for each group of as many columns as the weight has. An item owns
// whole groups; x is read from memory once (the second pass finds it in L1/L2), y is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void rmsNorm(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), y = args.tensor(), rstd = args.tensor();
  const double eps = args.number();
  const int64_t width = weight.cols, groups = rstd.cols;
  eachRow(context, x.rows * groups, width, [&](int64_t i) {
    const int64_t row = i / groups, group = i % groups, first = group * width;
    const Line in(x, row, first), gain(weight, 0, 0), out(y, row, first);
    vf squares = {};
    eachVector(width, [&](int64_t j, int64_t count) {
      const vf value = in.read(j, count);
      squares = fma(value, value, squares);
    });
    const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(sum(squares)) / width + eps));
    *at<float>(rstd, row, group) = scale;
    eachVector(width, [&](int64_t j, int64_t count) {
      out.write(j, in.read(j, count) * splat(scale) * gain.read(j, count), count);
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
