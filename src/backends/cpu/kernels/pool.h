// The thread pool and what a kernel gets besides its arguments. Compiled for the baseline CPU; kernels of every
// instruction set call into it.
#pragma once
#include "tensor.h"

namespace qdl {

/** Runs item `item` on thread `thread` (0 is the caller). */
using ItemFunction = void (*)(void* closure, int64_t item, int thread);

/** Bytes of scratch that each thread owns for the life of the backend: packed panels and tiles. */
constexpr size_t WORKSPACE_BYTES = size_t{2} << 20;

class Pool;
Pool* poolOpen(int threads);
void poolClose(Pool* pool);
/** Runs items 0..count−1, each once, on any thread; returns after all. Which thread runs an item must not matter. */
void poolRun(Pool* pool, int64_t count, ItemFunction function, void* closure);
/**
 * Returns when `counter`, which other items of the same call raise, has reached `goal`. An item may wait for what others have
 * begun alone: whether one that has not been handed out ever runs meanwhile is not known.
 */
void poolWait(const int64_t* counter, int64_t goal);

struct Context {
  Pool* pool;
  int isa;
  int threads;
  /** One 64-byte aligned block of WORKSPACE_BYTES per thread. */
  uint8_t** workspaces;
  /** Counts the products of this backend, so that a thread knows whether its packed panel is still the one it needs. */
  uint64_t sequence;
};

/** A kernel reads its arguments from `words` and uses `scratch` (as many bytes as it declared). */
using Kernel = void (*)(Context& context, const double* words, uint8_t* scratch);

}  // namespace qdl
