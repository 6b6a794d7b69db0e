// dx += rstd·(dy⊙w − x·rstd²·mean(dy⊙w⊙x)), in f32, for each group of as many columns as the weight has. An item owns whole
// groups; x, dy and dx are read once from memory (the second pass finds them in L1/L2), dx is written once.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void rmsNormBackward(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), rstd = args.tensor(), dy = args.tensor(), dx = args.tensor();
  const int64_t width = weight.cols, groups = rstd.cols;
  eachRow(context, x.rows * groups, width, [&](int64_t i) {
    const int64_t row = i / groups, group = i % groups, first = group * width;
    const Line values(x, row, first), gain(weight, 0, 0), gradient(dy, row, first), out(dx, row, first);
    const float scale = *at<float>(rstd, row, group);
    vf inner = {};
    eachVector(width, [&](int64_t j, int64_t count) {
      inner = fma(values.read(j, count), gradient.read(j, count) * gain.read(j, count), inner);
    });
    const float pull = scale * scale * sum(inner) / width;
    eachVector(width, [&](int64_t j, int64_t count) {
      const vf slope = gradient.read(j, count) * gain.read(j, count) - values.read(j, count) * splat(pull);
      out.write(j, out.read(j, count) + splat(scale) * slope, count);
    });
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
