// What the norms share: a group of columns is kept in registers between its sums and its result, KEPT packs a thread.

/** Few registers, so that many blocks fill the pauses of each other: their sums and their waits for memory. */
#define BOUNDS __launch_bounds__(THREADS, RESIDENT / THREADS)

typedef Pack<TYPE, WIDTH> Kept[KEPT];

/** Reads the group's packs; those past its end are 0. */
__device__ __forceinline__ void keep(Kept &kept, const TYPE *from, u32 cols, bool inside) {
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const u32 col = (threadIdx.x + k * blockDim.x) * WIDTH;
    kept[k] = {};
    if (inside && col < cols) kept[k] = *reinterpret_cast<const Pack<TYPE, WIDTH> *>(from + col);
  }
}

/** Calls f(k, col) for each pack that this thread keeps of a group that is there. */
template <class F>
__device__ __forceinline__ void each_kept(u32 cols, bool inside, F f) {
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    const u32 col = (threadIdx.x + k * blockDim.x) * WIDTH;
    if (inside && col < cols) f(k, col);
  }
}
