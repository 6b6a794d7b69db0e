// Element-wise kernels see every float tensor as f32, a short run of one row at a time: by vectors (Line), or f32 memory in
// place and bf16 through a small buffer in L1 (read, commit). So one loop serves every mixture of dtypes.
#pragma once
#include "simd.h"

namespace qdl {
namespace QDL_ISA {

/** Elements of one run. */
constexpr int RUN = 512;
/** Elements that one work item should touch: large enough to hide the cost of taking it. */
constexpr int64_t ITEM_ELEMENTS = 16384;

QDL_INLINE uint8_t* address(const Tensor& t, int64_t row, int64_t col) {
  const int64_t bytes = t.dtype == BF16 ? 2 : t.dtype == U8 ? 1 : 4;
  return t.data + (row * t.stride + col) * bytes;
}
template <class E>
QDL_INLINE E* at(const Tensor& t, int64_t row, int64_t col = 0) {
  return reinterpret_cast<E*>(t.data) + row * t.stride + col;
}

/**
 * Asks for part of a matrix ahead of its use: few bytes of each of many rows are not what the CPU foresees by itself.
 */
QDL_INLINE void ask(const Tensor& t, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  const int64_t bytes = address(t, 0, cols) - address(t, 0, 0);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(address(t, row + i, col) + byte);
}

/** The same for memory that is about to be written: stores are done in order, so one that misses its line holds up all behind it. */
QDL_INLINE void askToWrite(const Tensor& t, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  const int64_t bytes = address(t, 0, cols) - address(t, 0, 0);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(address(t, row + i, col) + byte, 1);
}

/** As `ask`, a little at each `step`, so that other work hides the wait. */
class Ahead {
 public:
  /** Asks for nothing. */
  Ahead() = default;
  /** Columns of the first rows of a matrix; all is asked for after `steps` steps. */
  Ahead(const Tensor& t, int64_t rows, int64_t col, int64_t cols, int64_t steps)
      : at_(address(t, 0, col)),
        lines_(ceilDiv(address(t, 0, cols) - address(t, 0, 0), LINE)),
        pitch_(address(t, 1, 0) - address(t, 0, 0)),
        left_(rows * lines_),
        share_(ceilDiv(left_, most(1, steps))) {}
  QDL_INLINE_MEMBER void step(int64_t steps = 1) {
    for (int64_t n = least(steps * share_, left_); n > 0; n--, left_--) {
      __builtin_prefetch(at_ + line_ * LINE, 0, 2);
      if (++line_ == lines_) line_ = 0, at_ += pitch_;
    }
  }

 private:
  static constexpr int64_t LINE = 64;
  const uint8_t* at_ = nullptr;
  int64_t lines_ = 0, pitch_ = 0, left_ = 0, share_ = 0, line_ = 0;
};

/** memcpy for short runs, without the call. */
template <class E>
QDL_INLINE void copyRun(const E* from, int64_t n, E* to) {
  typedef E V __attribute__((vector_size(LANES * sizeof(E))));
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, load<V>(from + i));
  for (; i < n; i++) to[i] = from[i];
}

/** n values of a row as f32: the memory itself, or `buffer` after conversion. */
QDL_INLINE const float* read(const Tensor& t, int64_t row, int64_t col, int64_t n, float* buffer) {
  if (t.dtype == F32) return at<float>(t, row, col);
  widen(at<uint16_t>(t, row, col), n, buffer);
  return buffer;
}
QDL_INLINE float readOne(const Tensor& t, int64_t row, int64_t col) {
  return t.dtype == F32 ? *at<float>(t, row, col) : widen(*at<uint16_t>(t, row, col));
}
/** Where to compute n values of an output row: the memory itself, or `buffer`, which `commit` then rounds into place. */
QDL_INLINE float* target(const Tensor& t, int64_t row, int64_t col, float* buffer) {
  return t.dtype == F32 ? at<float>(t, row, col) : buffer;
}
QDL_INLINE void commit(const Tensor& t, int64_t row, int64_t col, int64_t n, const float* buffer) {
  if (t.dtype == BF16) rounded(buffer, n, at<uint16_t>(t, row, col));
}

/** A run of one row as vectors of f32, whatever memory holds: nothing is staged in a buffer. */
class Line {
 public:
  Line(const Tensor& t, int64_t row, int64_t col) : at_(address(t, row, col)), half_(t.dtype == BF16) {}
  /** Values j..j+count−1; zeros behind them. */
  QDL_INLINE_MEMBER vf read(int64_t j, int64_t count = LANES) const {
    if (count >= LANES) return half_ ? widen(load<vh>(halves() + j)) : load<vf>(floats() + j);
    float values[LANES] = {};
    for (int64_t i = 0; i < count; i++) values[i] = half_ ? widen(halves()[j + i]) : floats()[j + i];
    return load<vf>(values);
  }
  /** Rounds them into place. */
  QDL_INLINE_MEMBER void write(int64_t j, vf value, int64_t count = LANES) const {
    if (count >= LANES) return half_ ? store(halves() + j, rounded(value)) : store(floats() + j, value);
    float values[LANES];
    store(values, value);
    for (int64_t i = 0; i < count; i++)
      if (half_)
        halves()[j + i] = narrow(values[i]);
      else
        floats()[j + i] = values[i];
  }

 private:
  QDL_INLINE_MEMBER uint16_t* halves() const { return reinterpret_cast<uint16_t*>(at_); }
  QDL_INLINE_MEMBER float* floats() const { return reinterpret_cast<float*>(at_); }
  uint8_t* at_;
  bool half_;
};

/** Calls function(j, count) for every vector of a run of n values; count is less than LANES for a last, broken one. */
template <class Function>
QDL_INLINE void eachVector(int64_t n, Function function) {
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) function(j, LANES);
  if (j < n) function(j, n - j);
}

QDL_INLINE void zeroRow(const Tensor& t, int64_t row, int64_t col, int64_t n) {
  memset(address(t, row, col), 0, n * (t.dtype == BF16 ? 2 : 4));
}

/** Σ a over n values. */
QDL_INLINE float sumRun(const float* a, int64_t n) {
  vf sums = {};
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) sums += load<vf>(a + j);
  float total = sum(sums);
  for (; j < n; j++) total += a[j];
  return total;
}
/** Adds Σ a·b over n values to LANES sums. */
QDL_INLINE vf dotRun(const float* a, const float* b, int64_t n, vf sums) {
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) sums = fma(load<vf>(a + j), load<vf>(b + j), sums);
  for (; j < n; j++) sums[0] += a[j] * b[j];
  return sums;
}
/** Σ a·b over n values. */
QDL_INLINE float dotRow(const float* a, const float* b, int64_t n) {
  vf sums = {};
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) sums = fma(load<vf>(a + j), load<vf>(b + j), sums);
  float total = sum(sums);
  for (; j < n; j++) total += a[j] * b[j];
  return total;
}

/** Calls function(row, col, n) for runs of at most RUN elements that cover rows × cols; cut by shape only. */
template <class Function>
QDL_INLINE void eachRun(Context& context, int64_t rows, int64_t cols, Function function) {
  if (rows <= 0 || cols <= 0) return;
  const int64_t width = least(cols, ITEM_ELEMENTS), across = ceilDiv(cols, width);
  const int64_t height = most(1, ITEM_ELEMENTS / width), down = ceilDiv(rows, height);
  auto item = [&](int64_t i, int) {
    const int64_t row0 = i / across * height, col0 = i % across * width;
    for (int64_t row = row0; row < least(rows, row0 + height); row++)
      for (int64_t col = col0; col < least(cols, col0 + width); col += RUN)
        function(row, col, least(RUN, least(cols, col0 + width) - col));
  };
  parallel(context, down * across, item);
}

/** Calls function(row) for every row, several rows to a work item; `work` is the elements that one row touches. */
template <class Function>
QDL_INLINE void eachRow(Context& context, int64_t rows, int64_t work, Function function) {
  const int64_t height = most(1, ITEM_ELEMENTS / most(1, work));
  auto item = [&](int64_t i, int) {
    for (int64_t row = i * height; row < least(rows, (i + 1) * height); row++) function(row);
  };
  parallel(context, ceilDiv(rows, height), item);
}

}  // namespace QDL_ISA
}  // namespace qdl
