// The C interface of the library, and the choice of instruction set. Compiled for the baseline CPU: nothing here runs an
// instruction that any CPU of this architecture lacks. A variant exists if build.ts compiled it (QDL_WITH_*).
#include <cstdlib>
#include <cstring>
#include <new>

#include "pool.h"
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/mman.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#define QDL_EXPORT extern "C" __attribute__((visibility("default")))

namespace qdl {

#define QDL_VARIANT(isa)             \
  namespace isa {                    \
  extern const Kernel KERNELS[];     \
  extern double (*const PEAK)(Context&, DType, double); \
  }
#ifdef QDL_WITH_BASELINE
QDL_VARIANT(baseline)
#endif
#ifdef QDL_WITH_AVX2
QDL_VARIANT(avx2)
#endif
#ifdef QDL_WITH_AVX512
QDL_VARIANT(avx512)
#endif
#ifdef QDL_WITH_AVX512BF16
QDL_VARIANT(avx512bf16)
#endif
#ifdef QDL_WITH_NEON
QDL_VARIANT(neon)
#endif
#ifdef QDL_WITH_NEONBF16
QDL_VARIANT(neonbf16)
#endif

#ifdef QDL_WITH_NEONBF16
static bool hasArmBf16() {
#if defined(__linux__)
  constexpr unsigned long BF16_BIT = 1ul << 14;  // HWCAP2_BF16, which older headers lack
  return (getauxval(AT_HWCAP2) & BF16_BIT) != 0;
#elif defined(__APPLE__)
  int has = 0;
  size_t bytes = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &bytes, nullptr, 0) == 0 && has != 0;
#else
  return false;
#endif
}
#endif

struct Variant {
  const char* name;
  const Kernel* kernels;
  double (*peak)(Context&, DType, double);
  bool (*runs)();
};

// In rising order of speed. The checks include the operating system's support for the registers.
static const Variant VARIANTS[] = {
#ifdef QDL_WITH_BASELINE
    {"baseline", baseline::KERNELS, baseline::PEAK, [] { return true; }},
#endif
#ifdef QDL_WITH_AVX2
    {"avx2", avx2::KERNELS, avx2::PEAK, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
#ifdef QDL_WITH_AVX512
    {"avx512", avx512::KERNELS, avx512::PEAK,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     }},
#endif
#ifdef QDL_WITH_AVX512BF16
    {"avx512bf16", avx512bf16::KERNELS, avx512bf16::PEAK,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
     }},
#endif
#ifdef QDL_WITH_NEON
    {"neon", neon::KERNELS, neon::PEAK, [] { return true; }},
#endif
#ifdef QDL_WITH_NEONBF16
    {"neonbf16", neonbf16::KERNELS, neonbf16::PEAK, hasArmBf16},
#endif
};
constexpr int VARIANT_COUNT = sizeof VARIANTS / sizeof *VARIANTS;

static const char* const OP_NAMES[] = {
#define QDL_OP(name) #name,
#include "ops.inc"
#undef QDL_OP
};
constexpr int OP_COUNT = sizeof OP_NAMES / sizeof *OP_NAMES;

/** Large blocks come from the system as whole pages: zeroed when first touched, huge where it offers that. */
constexpr size_t MAPPED_BYTES = size_t{1} << 20;

static void* allocate(size_t bytes) {
  const size_t whole = (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0);
#if defined(__linux__)
  if (whole >= MAPPED_BYTES) {
    void* block = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return nullptr;
    madvise(block, whole, MADV_HUGEPAGE);
    return block;
  }
#endif
  void* block = nullptr;
  if (posix_memalign(&block, 64, whole) != 0) return nullptr;
  memset(block, 0, whole);
  return block;
}

static void release(void* block, size_t bytes) {
#if defined(__linux__)
  const size_t whole = (bytes + 63) / 64 * 64;
  if (whole >= MAPPED_BYTES) {
    munmap(block, whole);
    return;
  }
#endif
  (void)bytes;
  free(block);
}

}  // namespace qdl

using namespace qdl;

/** Name of the variant with this number, null behind the last. */
QDL_EXPORT const char* qdl_variant(int variant) { return variant < VARIANT_COUNT ? VARIANTS[variant].name : nullptr; }
/** Whether this CPU can run it. */
QDL_EXPORT int qdl_variant_runs(int variant) { return VARIANTS[variant].runs(); }
/** Number of the op with this name, −1 if there is none. */
QDL_EXPORT int qdl_op(const char* name) {
  for (int op = 0; op < OP_COUNT; op++)
    if (strcmp(name, OP_NAMES[op]) == 0) return op;
  return -1;
}

QDL_EXPORT void qdl_close(Context* context) {
  if (!context) return;
  if (context->pool) poolClose(context->pool);
  for (int thread = 0; context->workspaces && thread < context->threads; thread++)
    if (context->workspaces[thread]) release(context->workspaces[thread], WORKSPACE_BYTES);
  delete[] context->workspaces;
  delete context;
}

/** A backend of its own threads and workspaces; null if memory or threads are exhausted, or the CPU lacks the variant. */
QDL_EXPORT Context* qdl_open(int variant, int threads) {
  if (variant < 0 || variant >= VARIANT_COUNT || !VARIANTS[variant].runs() || threads < 1) return nullptr;
  Context* context = new (std::nothrow) Context{nullptr, variant, threads, nullptr, 0};
  if (!context) return nullptr;
  context->workspaces = new (std::nothrow) uint8_t* [static_cast<size_t>(threads)] {};
  bool complete = context->workspaces != nullptr;
  for (int thread = 0; complete && thread < threads; thread++)
    complete = (context->workspaces[thread] = static_cast<uint8_t*>(allocate(WORKSPACE_BYTES))) != nullptr;
  try {
    if (complete) context->pool = poolOpen(threads);
  } catch (...) {
    complete = false;
  }
  if (complete) return context;
  qdl_close(context);
  return nullptr;
}

/** Runs one op; returns after the work. `scratch` is rounded up to 64 bytes: the caller leaves room. */
QDL_EXPORT void qdl_run(Context* context, int op, const double* words, uintptr_t scratch) {
  VARIANTS[context->isa].kernels[op](*context, words, reinterpret_cast<uint8_t*>((scratch + 63) / 64 * 64));
}
/** Measured FLOP/s of a register loop on all threads, for products of f32 (0) or bf16 (1) activations. */
QDL_EXPORT double qdl_peak(Context* context, int dtype, double seconds) {
  return VARIANTS[context->isa].peak(*context, static_cast<DType>(dtype), seconds);
}

/** Zeroed memory, 64-byte aligned; null if there is none. */
QDL_EXPORT void* qdl_alloc(double bytes) { return allocate(static_cast<size_t>(bytes)); }
QDL_EXPORT void qdl_free(void* block, double bytes) { release(block, static_cast<size_t>(bytes)); }
QDL_EXPORT void qdl_copy(void* to, const void* from, double bytes) { memcpy(to, from, static_cast<size_t>(bytes)); }
