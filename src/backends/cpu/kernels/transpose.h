// Small transposes in registers.
#pragma once
#include "simd.h"

namespace qdl {
namespace QDL_ISA {

/** out[j·pitch + r] = in[r·pitchIn + j] for LANES × LANES words. */
QDL_INLINE void transposeTile(const uint32_t* in, int64_t pitchIn, uint32_t* out, int64_t pitch) {
#if defined(__AVX512F__)
  __m512i r[16], x[16], y[16];
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(in + i * pitchIn);
  for (int i = 0; i < 8; i++) {
    x[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    x[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    y[4 * i] = _mm512_unpacklo_epi64(x[4 * i], x[4 * i + 2]);
    y[4 * i + 1] = _mm512_unpackhi_epi64(x[4 * i], x[4 * i + 2]);
    y[4 * i + 2] = _mm512_unpacklo_epi64(x[4 * i + 1], x[4 * i + 3]);
    y[4 * i + 3] = _mm512_unpackhi_epi64(x[4 * i + 1], x[4 * i + 3]);
  }
  for (int j = 0; j < 4; j++) {
    __m512i a = _mm512_shuffle_i32x4(y[j], y[j + 4], 0x88), b = _mm512_shuffle_i32x4(y[j + 8], y[j + 12], 0x88);
    __m512i c = _mm512_shuffle_i32x4(y[j], y[j + 4], 0xdd), d = _mm512_shuffle_i32x4(y[j + 8], y[j + 12], 0xdd);
    _mm512_storeu_si512(out + j * pitch, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(out + (j + 8) * pitch, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_storeu_si512(out + (j + 4) * pitch, _mm512_shuffle_i32x4(c, d, 0x88));
    _mm512_storeu_si512(out + (j + 12) * pitch, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
#elif defined(__AVX2__)
  __m256 r[8], x[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(in + i * pitchIn));
  for (int i = 0; i < 4; i++) {
    x[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    x[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int half = 0; half < 2; half++) {
    __m256 a = x[4 * half], b = x[4 * half + 1], c = x[4 * half + 2], d = x[4 * half + 3];
    r[4 * half] = _mm256_shuffle_ps(a, c, 0x44);
    r[4 * half + 1] = _mm256_shuffle_ps(a, c, 0xee);
    r[4 * half + 2] = _mm256_shuffle_ps(b, d, 0x44);
    r[4 * half + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  for (int j = 0; j < 4; j++) {
    _mm256_storeu_ps(reinterpret_cast<float*>(out + j * pitch), _mm256_permute2f128_ps(r[j], r[j + 4], 0x20));
    _mm256_storeu_ps(reinterpret_cast<float*>(out + (j + 4) * pitch), _mm256_permute2f128_ps(r[j], r[j + 4], 0x31));
  }
#elif defined(__aarch64__)
  uint32x4_t r[4];
  for (int i = 0; i < 4; i++) r[i] = vld1q_u32(in + i * pitchIn);
  for (int j = 0; j < 2; j++) {
    const uint64x2_t above = vreinterpretq_u64_u32(j == 0 ? vtrn1q_u32(r[0], r[1]) : vtrn2q_u32(r[0], r[1]));
    const uint64x2_t under = vreinterpretq_u64_u32(j == 0 ? vtrn1q_u32(r[2], r[3]) : vtrn2q_u32(r[2], r[3]));
    vst1q_u32(out + j * pitch, vreinterpretq_u32_u64(vzip1q_u64(above, under)));
    vst1q_u32(out + (j + 2) * pitch, vreinterpretq_u32_u64(vzip2q_u64(above, under)));
  }
#else
  for (int j = 0; j < LANES; j++)
    for (int r = 0; r < LANES; r++) out[j * pitch + r] = in[r * pitchIn + j];
#endif
}

}  // namespace QDL_ISA
}  // namespace qdl
