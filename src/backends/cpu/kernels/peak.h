// The most that the product core could reach: the same arithmetic on registers alone, on all threads at once.
#pragma once
#include <ctime>

#include "tile.h"

namespace qdl {
namespace QDL_ISA {

QDL_INLINE double secondsNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

template <class C>
static __attribute__((noinline)) float registerLoop(int64_t rounds) {
  constexpr int ROWS = TILE_ROWS;
  alignas(64) uint32_t panel[TILE_COLS * C::STEP / C::PAIR] = {};
  typename C::E left[ROWS * C::STEP] = {};
  const typename C::E* leftAt = left;
  const uint32_t* panelAt = panel;
  vf sums[ROWS][TILE_VECTORS] = {};
  for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 8
    for (int again = 0; again < 8; again++) {
      // For all the compiler knows these move: operands that it kept in registers would push sums out of them.
      asm volatile("" : "+r"(leftAt), "+r"(panelAt));
      step<ROWS, TILE_VECTORS>(C{}, sums, leftAt, C::STEP, panelAt, TILE_COLS);
    }
  }
  float total = 0;
  for (auto& row : sums)
    for (vf& v : row) total += sum(v);
  return total;
}

/** FLOP/s of products of this dtype's activations, over about `seconds`. */
static double peak(Context& context, DType dtype, double seconds) {
  double rate = 0;
  withCompute(dtype, [&](auto compute) {
    typedef decltype(compute) C;
    constexpr int64_t ROUNDS = 20000;
    constexpr double FLOPS = 2.0 * TILE_ROWS * TILE_COLS * C::STEP * 8 * ROUNDS;
    auto item = [&](int64_t, int) {
      volatile float sink = registerLoop<C>(ROUNDS);
      (void)sink;
    };
    for (double start = secondsNow(), end = start; end - start < seconds;) {
      const double from = end;
      parallel(context, context.threads, item);
      end = secondsNow();
      const double got = FLOPS * context.threads / (end - from);
      rate = got > rate ? got : rate;
    }
  });
  return rate;
}

}  // namespace QDL_ISA
}  // namespace qdl
