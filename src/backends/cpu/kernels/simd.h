// One vector type per instruction set, on the compiler's vector extensions: the same source gives AVX-512, AVX2, NEON and
// plain SSE2 code. Everything lives in a namespace of its own per build, so that the linker can never put one build's
// copy of an inline function in place of another's. No function of the standard library's templates is used below here.
#pragma once
#include <cmath>
#include <cstring>

#include "pool.h"
#if defined(__AVX2__)
#if __GNUC__ == 12 && !defined(__clang__)
// This compiler's own intrinsics draw the warning wherever they are inlined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__aarch64__) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define QDL_ARM_BF16 1
#else
#define QDL_ARM_BF16 0
#endif

#define QDL_INLINE static inline __attribute__((always_inline))
#define QDL_INLINE_MEMBER inline __attribute__((always_inline))

namespace qdl {
namespace QDL_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TILE_VECTORS = 4;
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int TILE_VECTORS = 2;
#elif defined(__aarch64__)
constexpr int LANES = 4;
constexpr int TILE_VECTORS = 4;
#else
constexpr int LANES = 4;
constexpr int TILE_VECTORS = 2;
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));

template <class V, class P>
QDL_INLINE V load(const P* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class P>
QDL_INLINE void store(P* p, V v) {
  memcpy(p, &v, sizeof v);
}
QDL_INLINE vf splat(float x) { return x - vf{}; }

/** a·b + c, rounded once where the CPU has it. */
QDL_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

QDL_INLINE vf maximum(vf a, vf b) { return a > b ? a : b; }

/** Folds the lanes of a vector by halves, always in the same order. */
template <class Fold>
QDL_INLINE float folded(vf v, Fold fold) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m512 whole = (__m512)v;
  const __m256 half = fold(_mm512_castps512_ps256(whole), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(whole), 1)));
#else
  const __m256 half = (__m256)v;
#endif
  __m128 x = fold(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  x = fold(x, _mm_movehl_ps(x, x));
  return fold(x, _mm_shuffle_ps(x, x, 1))[0];
#elif defined(__aarch64__)
  typedef float Half __attribute__((vector_size(8)));
  const Half half = fold((Half)vget_low_f32((float32x4_t)v), (Half)vget_high_f32((float32x4_t)v));
  return fold(half[0], half[1]);
#else
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] = fold(lanes[i], lanes[i + half]);
  return lanes[0];
#endif
}
QDL_INLINE float sum(vf v) {
  return folded(v, [](auto a, auto b) { return a + b; });
}
static constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
#if defined(__AVX512F__)
/** Quarter i: what remains to be summed of v[i], its quarters added up as `sum` does; zeros from v[count] on. */
QDL_INLINE __m512 quartersOf(const vf* v, int count) {
  const auto at = [&](int i) { return i < count ? (__m512)v[i] : __m512{}; };
  const __m512 ab = _mm512_shuffle_f32x4(at(0), at(1), 0x44) + _mm512_shuffle_f32x4(at(0), at(1), 0xee);
  const __m512 cd = _mm512_shuffle_f32x4(at(2), at(3), 0x44) + _mm512_shuffle_f32x4(at(2), at(3), 0xee);
  return _mm512_shuffle_f32x4(ab, cd, 0x88) + _mm512_shuffle_f32x4(ab, cd, 0xdd);
}
/** Sums of v[0..count−1], count ≤ 16, then zeros. */
QDL_INLINE __m512 sixteenSums(const vf* v, int count) {
  const __m512 a = quartersOf(v, count), b = quartersOf(v + 4, count - 4), c = quartersOf(v + 8, count - 8), d = quartersOf(v + 12, count - 12);
  const __m512d ab = (__m512d)(_mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b));
  const __m512d cd = (__m512d)(_mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d));
  const __m512 all = (__m512)_mm512_unpacklo_pd(ab, cd) + (__m512)_mm512_unpackhi_pd(ab, cd);
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), all);
}
/** Sums of v[0..count−1], count ≤ 4. */
QDL_INLINE __m128 fourSums(const vf* v, int count) {
  __m512 all = quartersOf(v, count);
  all += _mm512_permute_ps(all, 0xee);
  all += _mm512_permute_ps(all, 0x55);
  const __m512i firsts = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all));
}
#endif
/** out[i] = sum(v[i]) to the bit, where the CPU allows sixteen or four at a time. */
template <int N>
QDL_INLINE void sumsOf(const vf (&v)[N], float (&out)[N]) {
  int i = 0;
#if defined(__AVX512F__)
#pragma GCC unroll 8
  for (; i + 8 < N; i += 16) _mm512_mask_storeu_ps(out + i, (1u << least(16, N - i)) - 1, sixteenSums(v + i, N - i));
#pragma GCC unroll 8
  for (; i + 1 < N; i += 4) _mm_mask_storeu_ps(out + i, (1u << least(4, N - i)) - 1, fourSums(v + i, N - i));
#endif
#pragma GCC unroll 4
  for (; i < N; i++) out[i] = sum(v[i]);
}
/** The largest lane; NaN only where every comparison with it decides so: NaN must be carried by sums, not by maxima. */
QDL_INLINE float maximum(vf v) {
  return folded(v, [](auto a, auto b) { return a > b ? a : b; });
}

/** 0, 1, 2, … */
QDL_INLINE vi lanesInOrder() {
  vi v = {};
  for (int i = 0; i < LANES; i++) v[i] = i;
  return v;
}
/** x in the lanes below `limit`, `other` in the rest. */
QDL_INLINE vf below(int64_t limit, vf x, vf other) { return lanesInOrder() < static_cast<int32_t>(limit) ? x : other; }

/** A number that the compiler knows. */
template <int N>
struct Count {
  static constexpr int value = N;
};
QDL_INLINE int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
QDL_INLINE int64_t roundUp(int64_t a, int64_t b) { return ceilDiv(a, b) * b; }

// bf16 is the upper half of a float. Rounding to nearest even is integer arithmetic (and not the CPU's instruction, which
// flushes subnormals), so every build rounds alike. NaN stays NaN.

QDL_INLINE float widen(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}
QDL_INLINE uint16_t narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
QDL_INLINE vf widen(vh bits) {
#if defined(__AVX512F__)
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)bits), 16);
#elif defined(__AVX2__)
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)bits), 16);
#else
  return (vf)(__builtin_convertvector(bits, vu) << 16);
#endif
}
QDL_INLINE vh narrow(vf value) {
  vu bits = (vu)value;
  vu rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  vu quiet = bits >> 16 | 0x40;
  vu isNan = (vu)((bits & 0x7fffffffu) > 0x7f800000u);
  vu half = (quiet & isNan) | (rounded & ~isNan);
#if defined(__AVX512F__)
  return (vh)_mm512_cvtepi32_epi16((__m512i)half);
#elif defined(__AVX2__)
  __m256i packed = _mm256_packus_epi32((__m256i)half, (__m256i)half);
  return (vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(half, vh);
#endif
}

/** The same for results of arithmetic: the CPU's own instruction where it has one, which may flush subnormals to zero. */
QDL_INLINE vh rounded(vf value) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)value);
#elif QDL_ARM_BF16
  return (vh)vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)value));
#else
  return narrow(value);
#endif
}

QDL_INLINE void widen(const uint16_t* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, widen(load<vh>(from + i)));
  for (; i < n; i++) to[i] = widen(from[i]);
}
QDL_INLINE void narrow(const float* from, int64_t n, uint16_t* to) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, narrow(load<vf>(from + i)));
  for (; i < n; i++) to[i] = narrow(from[i]);
}

QDL_INLINE void rounded(const float* from, int64_t n, uint16_t* to) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, rounded(load<vf>(from + i)));
  for (; i < n; i++) to[i] = narrow(from[i]);
}

/** e^x within 2 ulp over the whole range, subnormals included; NaN stays NaN. Cody–Waite reduction, Taylor to degree 7. */
QDL_INLINE vf exponential(vf x) {
  const vf low = splat(-104.0f), high = splat(89.0f), perLog2 = splat(1.44269504088896341f);
#if defined(__AVX512F__)
  // The second operand is the result where one is NaN.
  x = (vf)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)x));
  const vf n = (vf)_mm512_roundscale_ps((__m512)(x * perLog2), 0x08);
#else
  x = x < low ? low : x;
  x = x > high ? high : x;
  const vf magic = splat(12582912.0f);  // 1.5·2^23: adding it rounds to a whole number
  const vf n = fma(x, perLog2, magic) - magic;
#endif
  vf r = fma(n, splat(-0.693145751953125f), x);
  r = fma(n, splat(-1.42860677e-6f), r);
  vf p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
#if defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  // 2^n in two factors, so that neither leaves the normal range.
  const vi whole = __builtin_convertvector(n, vi);
  const vi half = whole >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
#endif
}

/** tanh(x) within 2 ulp; NaN stays NaN. An odd polynomial near 0 (Cephes' tanhf), where 1 − 2/(e^2x + 1) would cancel. */
QDL_INLINE vf hyperbolicTangent(vf x) {
  const vu sign = (vu)x & 0x80000000u;
  const vf size = (vf)((vu)x & 0x7fffffffu), square = x * x;
  vf p = splat(-5.70498872745e-3f);
  p = fma(p, square, splat(2.06390887954e-2f));
  p = fma(p, square, splat(-5.37397155531e-2f));
  p = fma(p, square, splat(1.33314422036e-1f));
  p = fma(p, square, splat(-3.33332819422e-1f));
  const vf far = splat(1) - splat(2) / (exponential(size + size) + splat(1));
  return size < splat(0.625f) ? fma(p * square, x, x) : (vf)((vu)far | sign);
}

/** Runs function(item, thread) for items 0..count−1 on the pool. */
template <class Function>
QDL_INLINE void parallel(Context& context, int64_t count, Function& function) {
  poolRun(
      context.pool, count, [](void* closure, int64_t item, int thread) { (*static_cast<Function*>(closure))(item, thread); },
      &function);
}

}  // namespace QDL_ISA
}  // namespace qdl
