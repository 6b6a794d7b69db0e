// 8-bit codes of block scales. The mean is one serial sum in double precision (its order is part of the contract; there
// is one scale per 64 weights); then an item owns one block of 256 scales. Reads absmax twice, writes codes once.
#include "blocks.h"

namespace qdl {
namespace QDL_ISA {

static void quantizeScales(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor absmax = args.tensor(), map = args.tensor(), codes = args.tensor(), absmax2 = args.tensor();
  const Tensor offset = args.tensor();
  const float* scales = at<float>(absmax, 0);
  const float* levels = at<float>(map, 0);
  float thresholds[255];
  for (int i = 0; i < 255; i++) thresholds[i] = (levels[i] + levels[i + 1]) / 2;
  double total = 0;
  for (int64_t i = 0; i < absmax.cols; i++) total += scales[i];
  const float mean = static_cast<float>(total / static_cast<double>(absmax.cols));
  *at<float>(offset, 0) = mean;
  auto item = [&](int64_t block, int) {
    const int64_t from = block * SCALE_BLOCK, n = least(SCALE_BLOCK, absmax.cols - from);
    float centred[SCALE_BLOCK];
    for (int64_t j = 0; j < n; j++) centred[j] = scales[from + j] - mean;
    const float largest = largestMagnitude(centred, n);
    const float inverse = reciprocalOf(largest);
    at<float>(absmax2, 0)[block] = largest;
    for (int64_t j = 0; j < n; j++)
      codes.data[from + j] = static_cast<uint8_t>(nearestLevel<255>(thresholds, centred[j] * inverse));
  };
  parallel(context, ceilDiv(absmax.cols, SCALE_BLOCK), item);
}

}  // namespace QDL_ISA
}  // namespace qdl
