// cosSin = magnitude·(cos, sin) of position·frequency, one f32 product. An item owns whole rows. The library's cos and sin keep
// full precision at large angles; this runs once per micro-batch, so their speed does not matter.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

static void ropeTable(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor positions = args.tensor(), frequencies = args.tensor(), cosSin = args.tensor();
  const double magnitude = args.number();
  const int64_t half = frequencies.cols;
  eachRow(context, cosSin.rows, 64 * half, [&](int64_t row) {
    const float position = static_cast<float>(*at<int32_t>(positions, row));
    float* out = at<float>(cosSin, row);
    for (int64_t i = 0; i < half; i++) {
      const double angle = position * at<float>(frequencies, 0)[i];
      out[i] = static_cast<float>(magnitude * std::cos(angle));
      out[half + i] = static_cast<float>(magnitude * std::sin(angle));
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
