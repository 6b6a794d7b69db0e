// Stands before every kernel: number types, packs of elements, reductions. No headers: bf16 is a 16-bit integer here, and
// the conversions are inline PTX (sm_80 and newer).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 {
  u16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
/** To nearest, ties to even; NaN stays NaN. */
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

/** Two floats as bf16, the first in the low half. */
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

/** W neighbouring elements, read and written at once. The host sees to the alignment. */
template <class T, int W>
struct alignas(sizeof(T) * W > 16 ? 16 : sizeof(T) * W) Pack {
  T at[W];
  __device__ __forceinline__ void unpack(float (&x)[W]) const {
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = to_float(at[i]);
  }
  __device__ __forceinline__ void pack(const float (&x)[W]) {
#pragma unroll
    for (int i = 0; i < W; i++) at[i] = from_float<T>(x[i]);
  }
};

/** Pairs in whole registers: single bf16 would take one each. */
template <int W>
struct alignas(2 * W) PairPack {
  u32 pairs[W / 2];
  __device__ __forceinline__ void unpack(float (&x)[W]) const {
#pragma unroll
    for (int i = 0; i < W; i += 2) {
      x[i] = low_bf16(pairs[i / 2]);
      x[i + 1] = high_bf16(pairs[i / 2]);
    }
  }
  __device__ __forceinline__ void pack(const float (&x)[W]) {
#pragma unroll
    for (int i = 0; i < W; i += 2) pairs[i / 2] = pack_bf16(x[i], x[i + 1]);
  }
};
template <>
struct Pack<bf16, 8> : PairPack<8> {};
template <>
struct Pack<bf16, 4> : PairPack<4> {};

template <int W, class T>
__device__ __forceinline__ void load(float (&x)[W], const T *from) {
  reinterpret_cast<const Pack<T, W> *>(from)->unpack(x);
}

template <int W, class T>
__device__ __forceinline__ void store(T *to, const float (&x)[W]) {
  Pack<T, W> pack;
  pack.pack(x);
  *reinterpret_cast<Pack<T, W> *>(to) = pack;
}

/** Kernels that may be launched before the one before them has ended (device.ts, launchEarly): lets the next one start. */
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/** Waits until all kernels before have written what they write. */
__device__ __forceinline__ void wait_for_kernels_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/** Both, for kernels that have nothing to do before. */
__device__ __forceinline__ void take_turn() {
  let_next_kernel_start();
  wait_for_kernels_before();
}

/** One thread's pack of a matrix that is walked by a grid of one dimension. */
struct Place {
  u32 row, pack;
  bool inside;
};

/** The place of this thread, once the kernels before are done. */
__device__ __forceinline__ Place place(u32 rows, u32 packs) {
  take_turn();
  const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (u64)rows * packs) return {0, 0, false};
  const u32 row = (u32)at / packs;
  return {row, (u32)at - row * packs, true};
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}

/** The sum over a block of whole warps, in an order that depends on nothing, in every thread. */
template <class T>
__device__ __forceinline__ T block_sum(T x) {
  __shared__ T parts[32];
  x = warp_sum(x);
  const u32 warps = blockDim.x / 32;
  __syncthreads();  // parts may still be read from the sum before
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
  for (u32 i = 0; i < warps; i++) sum += parts[i];
  return sum;
}

/** One group of columns of one row: the work of the threads with one threadIdx.y. */
struct Group {
  u64 row;
  u32 index;
  /** false: past the last group. Such threads go along, for the sums over a warp. */
  bool inside;
};

/** The group of this thread, once the kernels before are done. */
__device__ __forceinline__ Group group_of_row(u32 groups, u32 groups_per_row) {
  take_turn();
  const u32 group = blockIdx.x * blockDim.y + threadIdx.y;
  if (groups_per_row == 1) return {group, 0, group < groups};
  const u32 row = group / groups_per_row;
  return {row, group - row * groups_per_row, group < groups};
}

/** The sums over the threads of a group: a power of two up to a warp, or the whole block. */
template <int N>
__device__ __forceinline__ void group_sums(float (&x)[N]) {
  __shared__ float parts[N][32];
  const bool alone = blockDim.x > 32;
  for (u32 distance = (alone ? 32 : blockDim.x) / 2; distance > 0; distance /= 2)
#pragma unroll
    for (int n = 0; n < N; n++) x[n] += __shfl_xor_sync(~0u, x[n], distance);
  if (!alone) return;
  __syncthreads();  // parts may still be read from the sums before
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int n = 0; n < N; n++) parts[n][threadIdx.x / 32] = x[n];
  __syncthreads();
  const u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
#pragma unroll
  for (int n = 0; n < N; n++) x[n] = warp_sum(lane < warps ? parts[n][lane] : 0.0f);
}

__device__ __forceinline__ float group_sum(float x) {
  float sums[1] = {x};
  group_sums(sums);
  return sums[0];
}

/** The last entry of a table, in ascending order of first_block, that starts at or before this block. */
template <class Entry>
__device__ __forceinline__ const Entry &entry_of_block(const Entry *table, u32 count, u64 block) {
  u32 low = 0, high = count;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (table[middle].first_block <= block) low = middle;
    else high = middle;
  }
  return table[low];
}

/** s(z) of the activations a(z) = z·s(z) of src/ops/activation.ts: 0 silu, 1 GELU by tanh, 2 GELU by erf. */
template <int ACTIVATION_NUMBER>
__device__ __forceinline__ float activation_share(float z) {
  if (ACTIVATION_NUMBER == 2) return normcdff(z);
  const float argument = ACTIVATION_NUMBER == 0 ? z : z * (1.5957691216057308f + 0.07135481627159854f * z * z);
  return 1.0f / (1.0f + expf(-argument));
}

/** d·a'(z), given s(z). */
template <int ACTIVATION_NUMBER>
__device__ __forceinline__ float activation_back(float d, float z, float s) {
  if (ACTIVATION_NUMBER == 2) return d * (s + z * 0.3989422804f * expf(-0.5f * z * z));
  const float slope = ACTIVATION_NUMBER == 0 ? 1.0f : 1.5957691216057308f + 3 * 0.07135481627159854f * z * z;
  return d * (s + z * s * (1.0f - s) * slope);
}
