// Arguments of a call: a block of doubles written by words.ts (addresses and counts are exact below 2^53), read here in
// the same order.
#pragma once
#include "simd.h"

namespace qdl {
namespace QDL_ISA {

class Args;

/** A list of tensors where it lies among the words: as long as a whole adapter, so it is not copied. */
struct Tensors {
  const double* words;
  int64_t count;
  QDL_INLINE_MEMBER Tensor operator[](int64_t i) const;
};

/** Reads the words of one call in order. */
class Args {
 public:
  explicit Args(const double* words) : at_(words) {}
  QDL_INLINE_MEMBER double number() { return *at_++; }
  QDL_INLINE_MEMBER int64_t integer() { return static_cast<int64_t>(*at_++); }
  QDL_INLINE_MEMBER Tensor tensor() {
    Tensor t;
    t.data = reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(*at_++));
    t.rows = integer();
    t.cols = integer();
    t.stride = integer();
    t.dtype = static_cast<DType>(integer());
    return t;
  }
  /** A count, then that many tensors. */
  QDL_INLINE_MEMBER Tensors tensors() {
    const int64_t count = integer();
    const Tensors list = {at_, count};
    at_ += count * TENSOR_WORDS;
    return list;
  }
  /** So many numbers, used where they lie. */
  QDL_INLINE_MEMBER const double* numbers(int64_t count) {
    at_ += count;
    return at_ - count;
  }
  QDL_INLINE_MEMBER Weight weight() {
    Weight w;
    w.format = static_cast<Format>(integer());
    w.rows = integer();
    w.cols = integer();
    w.values = tensor();
    w.scales = tensor();
    w.absmax2 = tensor();
    w.map = tensor();
    w.offset = static_cast<float>(number());
    return w;
  }
  /** A count, then that many ranges: used where they lie. */
  QDL_INLINE_MEMBER Ranges ranges() {
    Ranges r;
    r.count = integer();
    r.list = reinterpret_cast<const Range*>(at_);
    at_ += 4 * r.count;
    return r;
  }

 private:
  static constexpr int TENSOR_WORDS = 5;
  friend struct Tensors;
  const double* at_;
};

Tensor Tensors::operator[](int64_t i) const { return Args(words + i * Args::TENSOR_WORDS).tensor(); }

}  // namespace QDL_ISA
}  // namespace qdl
