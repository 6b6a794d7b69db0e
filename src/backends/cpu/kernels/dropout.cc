// y = x/(1−p) or 0, by the words of a Philox4x32-10 stream (src/random/philox.ts; SC 2011). An item owns a run of elements;
// reads x, writes y, each once. One block of four words serves four neighbouring columns.
#include "args.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

struct PhiloxKey {
  uint32_t key0, key1;
  /** Upper half of the counter: the hash of the stream's name. */
  uint32_t hash0, hash1;
};

QDL_INLINE void philox(const PhiloxKey& k, uint32_t block, uint32_t row, uint32_t* words) {
  uint32_t c0 = block, c1 = row, c2 = k.hash0, c3 = k.hash1, k0 = k.key0, k1 = k.key1;
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t(0xd2511f53) * c0, p1 = uint64_t(0xcd9e8d57) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9e3779b9;
    k1 += 0xbb67ae85;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

static void dropout(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor(), rows = args.tensor(), y = args.tensor();
  const uint64_t threshold = static_cast<uint64_t>(args.number());
  const float scale = static_cast<float>(args.number());
  uint32_t parts[4];
  for (uint32_t& part : parts) part = static_cast<uint32_t>(args.number());
  const PhiloxKey key = {parts[0], parts[1], parts[2], parts[3]};
  const uint32_t blocks = static_cast<uint32_t>(ceilDiv(x.cols, 4));
  eachRun(context, y.rows, y.cols, [&](int64_t row, int64_t col, int64_t n) {
    float bufferX[RUN], bufferY[RUN];
    uint32_t mask[RUN + 4];
    const uint32_t sample = static_cast<uint32_t>(*at<int32_t>(rows, row, 0));
    const uint32_t position = static_cast<uint32_t>(*at<int32_t>(rows, row, 1));
    // Runs begin at multiples of four columns.
    for (int64_t j = 0; j < n; j += 4) philox(key, blocks * position + static_cast<uint32_t>((col + j) / 4), sample, mask + j);
    const float* in = read(x, row, col, n, bufferX);
    float* out = target(y, row, col, bufferY);
    for (int64_t j = 0; j < n; j++) out[j] = mask[j] < threshold ? 0.0f : in[j] * scale;
    commit(y, row, col, n, out);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
