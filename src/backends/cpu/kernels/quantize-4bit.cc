// 4-bit codes and block scales of a matrix. An item owns 256 blocks of 64 consecutive values (so whole bytes of codes and
// whole scales); reads w once, writes codes and absmax once. Exact: f32 products in the order of the contract.
#include "blocks.h"

namespace qdl {
namespace QDL_ISA {

static const float FP4_THRESHOLDS[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f, 0.8333333f};
static const uint8_t FP4_CODES[8] = {0, 1, 6, 7, 4, 5, 2, 3};

/** One step of the search: doubles every index and adds one where x is above the threshold that the index picks. */
QDL_INLINE vi halve(vi index, vf x, vf above) {
#if defined(__AVX512F__)
  const __m512i twice = _mm512_add_epi32((__m512i)index, (__m512i)index);
  const __mmask16 greater = _mm512_cmp_ps_mask((__m512)x, (__m512)above, _CMP_GT_OQ);
  return (vi)_mm512_mask_sub_epi32(twice, greater, twice, _mm512_set1_epi32(-1));
#else
  return index + index - (x > above);
#endif
}

/** The 15 thresholds of NF4 in the order of a search by halves: the middle one, then those of each further step. */
struct Thresholds {
  float ascending[15];
  vf second, third, fourth;
};

QDL_INLINE Thresholds thresholdsOf(const float* levels) {
  Thresholds t = {};
  for (int i = 0; i < 15; i++) t.ascending[i] = (levels[i] + levels[i + 1]) / 2;
#if defined(__AVX2__)
  for (int i = 0; i < 2; i++) t.second[i] = t.ascending[8 * i + 3];
  for (int i = 0; i < 4; i++) t.third[i] = t.ascending[4 * i + 1];
  for (int i = 0; i < 8; i++) t.fourth[i] = t.ascending[2 * i];
#endif
  return t;
}

/** Number of thresholds below each x: by a search with table look-ups in registers, or else by comparing with all. */
QDL_INLINE vi nearestLevels(const Thresholds& t, vf x) {
#if defined(__AVX512F__)
  auto pick = [](vf table, vi index) { return (vf)_mm512_permutexvar_ps((__m512i)index, (__m512)table); };
#elif defined(__AVX2__)
  auto pick = [](vf table, vi index) { return (vf)_mm256_permutevar8x32_ps((__m256)table, (__m256i)index); };
#endif
#if defined(__AVX2__)
  vi index = halve(vi{}, x, splat(t.ascending[7]));
  index = halve(index, x, pick(t.second, index));
  index = halve(index, x, pick(t.third, index));
  return halve(index, x, pick(t.fourth, index));
#else
  vi index = {};
  for (int i = 0; i < 15; i++) index -= x > splat(t.ascending[i]);
  return index;
#endif
}

/** Largest lane. */
QDL_INLINE int32_t largest(vi v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)v);
#elif defined(__AVX2__)
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
#else
  int32_t best = v[0];
  for (int i = 1; i < LANES; i++) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

/** LANES codes as LANES/2 bytes: two codes a byte, the first one high. */
QDL_INLINE void packCodes(vi codes, uint8_t* packed) {
#if defined(__AVX512F__)
  const __m512i bytes = _mm512_or_si512(_mm512_slli_epi64((__m512i)codes, 4), _mm512_srli_epi64((__m512i)codes, 32));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(packed), _mm512_cvtepi64_epi8(bytes));
#else
  int32_t list[LANES];
  store(list, codes);
  for (int j = 0; j < LANES / 2; j++) packed[j] = static_cast<uint8_t>(list[2 * j] << 4 | list[2 * j + 1]);
#endif
}

/** Packed codes and absmax of the block of nf4 at x; absmax is NaN or infinite if a value is. */
template <class E>
QDL_INLINE float quantizeNf4(const Thresholds& thresholds, const E* x, uint8_t* packed) {
  constexpr int VECTORS = BLOCK / LANES;
  vf values[VECTORS];
  vi best = {};
  for (int i = 0; i < VECTORS; i++) {
    if constexpr (sizeof(E) == 2)
      values[i] = widen(load<vh>(x + i * LANES));
    else
      values[i] = load<vf>(x + i * LANES);
    const vi magnitude = (vi)values[i] & 0x7fffffff;
    best = magnitude > best ? magnitude : best;
  }
  const int32_t bits = largest(best);
  float absmax;
  memcpy(&absmax, &bits, 4);
  const vf inverse = splat(reciprocalOf(absmax));
  for (int i = 0; i < VECTORS; i++) packCodes(nearestLevels(thresholds, values[i] * inverse), packed + i * LANES / 2);
  return absmax;
}

static float quantizeFp4(const float* x, uint8_t* packed) {
  const float absmax = largestMagnitude(x, BLOCK), inverse = reciprocalOf(absmax);
  float scaled[BLOCK];
  int32_t codes[BLOCK] = {};
  for (int j = 0; j < BLOCK; j++) scaled[j] = x[j] * inverse;
  for (int t = 0; t < 7; t++)
    for (int j = 0; j < BLOCK; j++) codes[j] += __builtin_fabsf(scaled[j]) > FP4_THRESHOLDS[t];
  for (int j = 0; j < BLOCK; j++) codes[j] = (scaled[j] < 0 ? 8 : 0) + FP4_CODES[codes[j]];
  for (int j = 0; j < BLOCK / 2; j++) packed[j] = static_cast<uint8_t>(codes[2 * j] << 4 | codes[2 * j + 1]);
  return absmax;
}

/** Values first..last−1 of the matrix in row-major order, then zeros. */
static void gather(const Tensor& w, int64_t first, int64_t last, float* x) {
  for (int64_t from = first; from < last;) {
    const int64_t row = from / w.cols, col = from % w.cols, n = least(w.cols - col, last - from);
    float buffer[BLOCK];
    memcpy(x + (from - first), read(w, row, col, n, buffer), n * 4);
    from += n;
  }
  for (int64_t j = last - first; j < BLOCK; j++) x[j] = 0;
}

static void quantize4bit(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor w = args.tensor(), codes = args.tensor(), absmax = args.tensor();
  const bool nf4 = args.integer() == NF4;
  float levels[16];
  memcpy(levels, NF4_BITS, sizeof levels);
  const Thresholds thresholds = thresholdsOf(levels);
  const int64_t total = w.rows * w.cols, blocks = ceilDiv(total, BLOCK);
  const bool inOnePiece = w.stride == w.cols || w.rows == 1;
  constexpr int64_t ITEM = 256;
  auto item = [&](int64_t i, int) {
    for (int64_t block = i * ITEM; block < least(blocks, (i + 1) * ITEM); block++) {
      const int64_t first = block * BLOCK, last = least(total, first + BLOCK);
      uint8_t* bytes = codes.data + first / 2;
      float* scale = at<float>(absmax, 0) + block;
      if (nf4 && inOnePiece && last - first == BLOCK) {
        *scale = w.dtype == BF16 ? quantizeNf4(thresholds, at<uint16_t>(w, 0, first), bytes)
                                 : quantizeNf4(thresholds, at<float>(w, 0, first), bytes);
        continue;
      }
      float x[BLOCK];
      uint8_t packed[BLOCK / 2];
      gather(w, first, last, x);
      *scale = nf4 ? quantizeNf4(thresholds, x, packed) : quantizeFp4(x, packed);
      memcpy(bytes, packed, ceilDiv(last - first, 2));
    }
  };
  parallel(context, ceilDiv(blocks, ITEM), item);
}

}  // namespace QDL_ISA
}  // namespace qdl
