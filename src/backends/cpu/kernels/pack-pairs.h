// Panels of bf16 pairs on AVX-512, packed in registers: whole groups of 16 columns and whole blocks, nothing staged in
// memory. What is left over at the ends goes through pack.h's general way; both give the same words, but for subnormals of
// 4-bit weights, which become zero here as they do in the dot product.
#pragma once
#include "decode.h"
#include "transpose.h"

namespace qdl {
namespace QDL_ISA {

#if defined(__AVX512BF16__)

/** Lane r of out[j] = word j of row r, for 16 rows of eight words. */
QDL_INLINE void transposeHalfTile(const uint8_t* in, int64_t pitchBytes, __m512i (&out)[8]) {
  __m512i r[8], x[8];
  for (int i = 0; i < 8; i++) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i * pitchBytes));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + (i + 8) * pitchBytes));
    r[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  for (int i = 0; i < 4; i++) {
    x[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    x[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(x[4 * i], x[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(x[4 * i], x[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(x[4 * i + 1], x[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(x[4 * i + 1], x[4 * i + 3]);
  }
  const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (int j = 0; j < 4; j++) {
    out[j] = _mm512_permutex2var_epi64(r[j], even, r[j + 4]);
    out[j + 4] = _mm512_permutex2var_epi64(r[j], odd, r[j + 4]);
  }
}

/** Blocks whose scales are looked up together, ahead of their use. */
constexpr int SCALES_AHEAD = 16;
/**
 * How far ahead of their use values are asked for: few bytes of each of many rows are not what the CPU foresees. Asking past
 * the matrix's end harms nothing.
 */
constexpr int64_t ROWS_AHEAD = 16, BLOCKS_AHEAD = 8;

/** Whether blocks of a 4-bit matrix do not cross its rows. */
QDL_INLINE bool hasWholeBlocks(const Source& s) { return s.format != DENSE && s.cols % BLOCK == 0; }

/**
 * 16 columns of a panel are rows row… of 4-bit codes, from column `from`, for `blocks` blocks. The codes are transposed
 * eight to a word; then each lane of a vector is one weight of a pair, with its column's scale beside it.
 */
static void packCodedRows(const Source& s, int64_t row, int64_t from, int64_t blocks, int width, uint32_t* out) {
  const int64_t pitch = s.cols / 2, across = s.cols / BLOCK;
  const int64_t first = row * across + from / BLOCK;
  const uint8_t* codes = s.values.data + row * pitch + from / 2;
  const __m512 levels = _mm512_loadu_ps(s.levels);
  const __m512i below = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i above = _mm512_add_epi32(below, _mm512_set1_epi32(8));
  // A byte's first code is its upper half.
  const __m512i shift = _mm512_set1_epi64(0x0000000000000004LL);
  for (int64_t done = 0; done < blocks; done += SCALES_AHEAD) {
    alignas(64) float scales[SCALES_AHEAD][LANES];
    const int64_t count = least(SCALES_AHEAD, blocks - done);
    for (int r = 0; r < LANES; r++)
      for (int64_t b = 0; b < count; b++) scales[b][r] = scaleOf(s, first + r * across + done + b);
    for (int64_t b = done; b < done + count; b++) {
      if (b % 2 == 0) {
        const int64_t ahead = b + BLOCKS_AHEAD;
        // Behind the last block come the next 16 rows.
        const uint8_t* wanted = codes + (ahead < blocks ? ahead * (BLOCK / 2) : LANES * pitch + (ahead - blocks) * (BLOCK / 2));
        for (int r = 0; r < LANES; r++) __builtin_prefetch(wanted + r * pitch);
      }
      __m512i words[8];
      transposeHalfTile(codes + b * (BLOCK / 2), pitch, words);
      const __m512i scale = _mm512_load_si512(scales[b - done]);
      const __m512 lowScale = (__m512)_mm512_permutexvar_epi32(below, scale);
      const __m512 highScale = (__m512)_mm512_permutexvar_epi32(above, scale);
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) {
        __m512i low = _mm512_permutexvar_epi32(below, words[j]), high = _mm512_permutexvar_epi32(above, words[j]);
#pragma GCC unroll 4
        for (int byte = 0; byte < 4; byte++) {
          const __m512i bits = _mm512_add_epi32(shift, _mm512_set1_epi32(8 * byte));
          const __m512 a = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srlv_epi32(low, bits), levels), lowScale);
          const __m512 b = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srlv_epi32(high, bits), levels), highScale);
          _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(b, a));
          out += width;
        }
      }
    }
  }
}

/**
 * 64 columns of a panel are a block of each of rows row…row+depth−1, an even number, of 4-bit codes. Both rows of a pair
 * share a table: 16 values of the first, then 16 of the second.
 */
static void packCodedCols(const Source& s, int64_t row, int64_t depth, int64_t col, uint32_t* out) {
  const int64_t pitch = s.cols / 2, across = s.cols / BLOCK;
  const __m512 levels = _mm512_loadu_ps(s.levels);
  const __m512i second = _mm512_set1_epi8(16), nibble = _mm512_set1_epi8(15);
  const __m512i left = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), right = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const auto codesAt = [&](int64_t r) { return s.values.data + r * pitch + col / 2; };
  // 64 codes as bytes, in order.
  const auto spread = [&](int64_t r) {
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codesAt(r))));
    return _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi16(wide, 4), _mm512_slli_epi16(wide, 8)), nibble);
  };
  for (int64_t k = 0; k < depth; k += 2, out += BLOCK) {
    const int64_t r = row + k;
    for (int64_t ahead = r + ROWS_AHEAD; ahead < r + ROWS_AHEAD + 2; ahead++) {
      const int64_t block = ahead * across + col / BLOCK;
      __builtin_prefetch(codesAt(ahead));
      __builtin_prefetch(s.absmax ? static_cast<const void*>(s.absmax + block) : s.scaleCodes + block);
    }
    const __m512 a = _mm512_mul_ps(levels, _mm512_set1_ps(scaleOf(s, r * across + col / BLOCK)));
    const __m512 b = _mm512_mul_ps(levels, _mm512_set1_ps(scaleOf(s, (r + 1) * across + col / BLOCK)));
    const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m512i first = spread(r), other = _mm512_or_si512(spread(r + 1), second);
    const __m512i low = _mm512_unpacklo_epi8(first, other), high = _mm512_unpackhi_epi8(first, other);
    const __m512i pairs[2] = {_mm512_permutex2var_epi64(low, left, high), _mm512_permutex2var_epi64(low, right, high)};
    for (int i = 0; i < 2; i++) {
      const __m512i from = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(pairs[i]));
      const __m512i to = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(pairs[i], 1));
      _mm512_storeu_si512(out + 32 * i, _mm512_permutexvar_epi16(from, table));
      _mm512_storeu_si512(out + 32 * i + 16, _mm512_permutexvar_epi16(to, table));
    }
  }
}

/** Columns of a panel, whole runs of PAIR_COLS, are those of rows row…row+depth−1, an even number, of a bf16 matrix. */
constexpr int PAIR_COLS = 2 * LANES;
static void packDenseCols(const Tensor& t, int64_t row, int64_t depth, int64_t col, int cols, int width, uint32_t* out) {
  alignas(64) static const uint16_t LOW[PAIR_COLS] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(LOW), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t k = 0; k < depth; k += 2, out += width)
    for (int j = 0; j < cols; j += PAIR_COLS) {
      const uint16_t *first = at<uint16_t>(t, row + k, col + j), *second = first + t.stride;
      __builtin_prefetch(first + ROWS_AHEAD * t.stride);
      __builtin_prefetch(second + ROWS_AHEAD * t.stride);
      const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
      _mm512_storeu_si512(out + j, _mm512_permutex2var_epi16(a, low, b));
      _mm512_storeu_si512(out + j + LANES, _mm512_permutex2var_epi16(a, high, b));
    }
}

/** to[col][row] = from[row][col] for 32 rows × 16 columns of bf16. */
static void transposePairs(const Tensor& from, int64_t row, int64_t col, const Tensor& to) {
  alignas(64) uint32_t pairs[LANES * LANES];
  for (int i = 0; i < LANES; i++) {
    const vu low = __builtin_convertvector(load<vh>(at<uint16_t>(from, row + 2 * i, col)), vu);
    const vu high = __builtin_convertvector(load<vh>(at<uint16_t>(from, row + 2 * i + 1, col)), vu);
    store(pairs + i * LANES, low | high << 16);
  }
  transposeTile(pairs, LANES, reinterpret_cast<uint32_t*>(at<uint16_t>(to, col, row)), to.stride / 2);
}

#endif

}  // namespace QDL_ISA
}  // namespace qdl
