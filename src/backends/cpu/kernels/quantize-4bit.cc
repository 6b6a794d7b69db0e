// 4-bit codes and block scales of a matrix. An item owns 256 blocks of 64 consecutive values (so whole bytes of codes and
// whole scales); reads w once, writes codes and absmax once. Exact: f32 products in the order of the contract.
#include "blocks.h"

namespace qdl {
namespace QDL_ISA {

static const float FP4_THRESHOLDS[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f, 0.8333333f};
static const uint8_t FP4_CODES[8] = {0, 1, 6, 7, 4, 5, 2, 3};

/** Codes of one block's values: all 15 thresholds are compared, which vectorises, instead of searched. */
QDL_INLINE void codesOf(bool nf4, const float* thresholds, const float* x, float inverse, int32_t* codes) {
  for (int j = 0; j < BLOCK; j++) codes[j] = 0;
  float scaled[BLOCK];
  for (int j = 0; j < BLOCK; j++) scaled[j] = x[j] * inverse;
  if (nf4) {
    for (int t = 0; t < 15; t++)
      for (int j = 0; j < BLOCK; j++) codes[j] += scaled[j] > thresholds[t];
    return;
  }
  for (int t = 0; t < 7; t++)
    for (int j = 0; j < BLOCK; j++) codes[j] += __builtin_fabsf(scaled[j]) > FP4_THRESHOLDS[t];
  for (int j = 0; j < BLOCK; j++) codes[j] = (scaled[j] < 0 ? 8 : 0) + FP4_CODES[codes[j]];
}

static void quantize4bit(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor w = args.tensor(), codes = args.tensor(), absmax = args.tensor();
  const bool nf4 = args.integer() == NF4;
  float levels[16], thresholds[15];
  memcpy(levels, NF4_BITS, sizeof levels);
  for (int i = 0; i < 15; i++) thresholds[i] = (levels[i] + levels[i + 1]) / 2;
  const int64_t total = w.rows * w.cols, blocks = ceilDiv(total, BLOCK);
  constexpr int64_t ITEM = 256;
  auto item = [&](int64_t i, int) {
    for (int64_t block = i * ITEM; block < least(blocks, (i + 1) * ITEM); block++) {
      float x[BLOCK] = {};
      int32_t code[BLOCK];
      const int64_t first = block * BLOCK, last = least(total, first + BLOCK);
      for (int64_t from = first; from < last;) {
        const int64_t row = from / w.cols, col = from % w.cols, n = least(w.cols - col, last - from);
        float buffer[BLOCK];
        memcpy(x + (from - first), read(w, row, col, n, buffer), n * 4);
        from += n;
      }
      const float largest = largestMagnitude(x, last - first);
      at<float>(absmax, 0)[block] = largest;
      codesOf(nf4, thresholds, x, reciprocalOf(largest), code);
      uint8_t* bytes = codes.data + first / 2;
      uint8_t packed[BLOCK / 2];
      for (int64_t j = 0; j < BLOCK / 2; j++) packed[j] = static_cast<uint8_t>(code[2 * j] << 4 | code[2 * j + 1]);
      memcpy(bytes, packed, ceilDiv(last - first, 2));
    }
  };
  parallel(context, ceilDiv(blocks, ITEM), item);
}

}  // namespace QDL_ISA
}  // namespace qdl
