// attention_cached: attention of new queries over a key/value cache (src/ops/attention-cached.ts). A decoding step reads the cache
// once: the query heads of a group are the rows of one tile and share its keys and values, and the keys are split over blocks, whose
// partial results a second launch combines in order (flash-decoding). A prompt's queries lie in a row and see nearly the same keys: where a
// tile of them is of one sequence, each head takes it as the forward of training does. Every launch sees from the slots whose tile it is.

#include "attention-rows.cuh"
#if PATH == SIMPLE
#include "attention-simple.cuh"
#else
#include "attention-mma.cuh"
#endif

/** Which rows of the cache a query sees, and how far back. */
struct Sequences {
  const int *slots, *lengths;
  i64 stride_slots, stride_lengths;
  i64 window;

  INLINE int slot(int query) const { return slots[query * stride_slots]; }
  INLINE int length(int query) const { return lengths[query * stride_lengths]; }
  INLINE int begin(int query) const { return slot(query) + most(0, length(query) - (int)window); }
  INLINE int end(int query) const { return slot(query) + length(query); }
};

#if PATH == SIMPLE

#define WARPS 4

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention_cached(const TYPE *q, i64 stride_q, const TYPE *k, i64 stride_k, const TYPE *v, i64 stride_v, Sequences sequences,
                TYPE *o, i64 stride_o, int heads, int share, float scale, float soft_cap) {
  __shared__ float queries[WARPS][HEAD_DIM];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y * WARPS + warp, row = blockIdx.x;
  if (head >= heads) return;
  stage_row(queries[warp], q + row * stride_q + head * HEAD_DIM, lane);
  __syncwarp();
  const int group = head / share * HEAD_DIM;
  attend_row(queries[warp], k + group, stride_k, v + group, stride_v, sequences.begin(row), sequences.end(row) - 1, scale, soft_cap,
            o + row * stride_o + head * HEAD_DIM, lane);
}

#else  // MMA

// WARPS is given by the host.
#define KEYS 16  // of a warp's stage: every warp loads and multiplies keys of its own, without a barrier
#define STAGES 2
#define HEADS 16
#define TILE 64  // queries; TILE_KEYS, the keys that go past at once, and TILED, whether tiles are launched, are given by the host

/** Partial results of the `count` splits: weighted sums [queries, heads, count, HEAD_DIM], and for each of them its largest score in units of
 * log2 and its sum of weights. */
struct Splits {
  float *sums;
  float2 *totals;
  i64 count;
};

/** Whether the tile of a query is of one sequence. Every thread of a block calls it, of which there are at least TILE. */
INLINE bool is_tiled(const Sequences &sequences, int query, int queries) {
  const int first = query / TILE * TILE, row = least(first + (int)threadIdx.x % TILE, queries - 1);
  return TILED && __syncthreads_and(sequences.slot(row) == sequences.slot(first));
}

extern "C" __global__ void __launch_bounds__(128)
attention_cached_tiles(const u16 *q, i64 stride_q, const u16 *k, i64 stride_k, const u16 *v, i64 stride_v, Sequences sequences, u16 *o,
                       i64 stride_o, int queries, int heads, int share, float scale, float soft_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ int begin, end, last_begin, first_end;  // of the keys that some query sees, and of those that every query sees
  const u32 query_tile = shared_address(shared), key_tile = query_tile + TILE * PITCH, value_tile = key_tile + TILE_KEYS * PITCH;
  const int thread = threadIdx.x, warp = thread >> 5, head = blockIdx.x % heads;
  const int tiles = (queries + TILE - 1) / TILE, first = (tiles - 1 - (int)(blockIdx.x / heads)) * TILE;  // the longest first
  const int group = head / share * HEAD_DIM;
  if (!is_tiled(sequences, first, queries)) return;
  const Scoring scoring(scale, soft_cap);
  load_tile<TILE, 128>(query_tile, q + head * HEAD_DIM, stride_q, first, queries, thread);
  if (thread == 0) begin = last_begin = sequences.begin(first), end = first_end = sequences.end(first);
  __syncthreads();
  if (thread < TILE && first + thread < queries) {
    atomicMin(&begin, sequences.begin(first + thread));
    atomicMax(&last_begin, sequences.begin(first + thread));
    atomicMax(&end, sequences.end(first + thread));
    atomicMin(&first_end, sequences.end(first + thread));
  }
  int low[2], high[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = first + warp * 16 + tile_row() + 8 * i;
    low[i] = row < queries ? sequences.begin(row) : 1;
    high[i] = row < queries ? sequences.end(row) - 1 : 0;
  }
  __syncthreads();

  float sums[PADDED_DIM / 2] = {};
  Softmax softmax;
  for (int key = begin; key < end; key += TILE_KEYS) {
    __syncthreads();
    load_tile<TILE_KEYS, 128>(key_tile, k + group, stride_k, key, end, thread);
    commit_copies();
    load_tile<TILE_KEYS, 128>(value_tile, v + group, stride_v, key, end, thread);
    commit_copies();
    await_copies<1>();
    __syncthreads();
    float scores[TILE_KEYS / 2], rescale[2];
    score_tile(scores, query_tile + warp * 16 * PITCH, key_tile);
    if (key < last_begin || key + TILE_KEYS > first_end) mask_tile(scores, key + tile_column(), low, high);
    softmax.step(scores, scoring, rescale);
#pragma unroll
    for (int i = 0; i < PADDED_DIM / 2; i++) sums[i] *= rescale[(i >> 1) & 1];
    u32 weights[TILE_KEYS / 4];
    pack_tile(scores, weights);
    await_copies<0>();
    __syncthreads();
    add_product(sums, weights, value_tile);
  }
  float factor[2], log_sums[2];
  softmax.finish(scoring, factor, log_sums);
  store_tile(sums, o + head * HEAD_DIM, stride_o, first + warp * 16, queries, 0, factor);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention_cached(const u16 *q, i64 stride_q, const u16 *k, i64 stride_k, const u16 *v, i64 stride_v, Sequences sequences, u16 *o, i64 stride_o,
                Splits splits, int queries, int heads, int share, float scale, float soft_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float2 totals[WARPS][HEADS];
  constexpr int STAGE = 2 * KEYS * PITCH;
  take_turn();
  const int thread = threadIdx.x, warp = thread >> 5, lane = thread & 31;
  const int tiles_of_group = (share + HEADS - 1) / HEADS, group = blockIdx.y / tiles_of_group, count_of_splits = (int)splits.count;
  const int query = blockIdx.x / count_of_splits, split = blockIdx.x % count_of_splits;
  const int head0 = group * share + blockIdx.y % tiles_of_group * HEADS, count = least(HEADS, (group + 1) * share - head0);
  if (is_tiled(sequences, query, queries)) return;
  const Scoring scoring(scale, soft_cap);
  const u32 query_tile = shared_address(shared), stages = query_tile + HEADS * PITCH + warp * STAGES * STAGE;

  // This block's keys, in whole rounds of all its warps.
  constexpr int ROUND = WARPS * KEYS;
  const int begin = sequences.begin(query), end = sequences.end(query), rounds = (end - begin + ROUND - 1) / ROUND;
  const int per_split = (rounds + count_of_splits - 1) / count_of_splits * ROUND;
  const int from = begin + split * per_split, to = least(end, from + per_split);
  const u16 *keys = k + group * HEAD_DIM, *values = v + group * HEAD_DIM;
  const auto load = [&](int round) {
    const int key = from + round * ROUND + warp * KEYS;
    const u32 stage = stages + round % STAGES * STAGE;
    if (key < to) {
      load_tile<KEYS, 32>(stage, keys, stride_k, key, to, lane);
      load_tile<KEYS, 32>(stage + KEYS * PITCH, values, stride_v, key, to, lane);
    }
    commit_copies();
  };

  load_tile<HEADS, WARPS * 32>(query_tile, q + query * stride_q + head0 * HEAD_DIM, HEAD_DIM, 0, count, thread);
  commit_copies();
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) load(i);
  await_copies<STAGES - 1>();
  __syncthreads();

  float sums[PADDED_DIM / 2] = {};
  Softmax softmax;
  for (int round = 0; from + round * ROUND + warp * KEYS < to; round++) {
    load(round + STAGES - 1);
    await_copies<STAGES - 1>();
    __syncwarp();
    const int key = from + round * ROUND + warp * KEYS;
    const u32 stage = stages + round % STAGES * STAGE;
    float scores[KEYS / 2], rescale[2];
    score_tile(scores, query_tile, stage);
    const int low[2] = {from, from}, high[2] = {to - 1, to - 1};
    if (key + KEYS > to) mask_tile(scores, key + tile_column(), low, high);
    softmax.step(scores, scoring, rescale);
#pragma unroll
    for (int i = 0; i < PADDED_DIM / 2; i++) sums[i] *= rescale[(i >> 1) & 1];
    u32 weights[KEYS / 4];
    pack_tile(scores, weights);
    add_product(sums, weights, stage + KEYS * PITCH);
    __syncwarp();
  }

  // The warps' sums into the memory of their stages, then together in the order of the warps.
  await_copies<0>();
  __syncthreads();
  float *warp_sums = (float *)shared;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float total = quad_sum(softmax.sum[row]);
#if SOFT_CAP
    const float largest = softmax.largest[row];
#else
    const float largest = softmax.largest[row] * scoring.to_log2;
#endif
    if (lane % 4 == 0) totals[warp][tile_row() + 8 * row] = make_float2(largest, total);
  }
#pragma unroll
  for (int i = 0; i < PADDED_DIM / 4; i++)
    *(float2 *)(warp_sums + (warp * HEADS + tile_row() + 8 * (i & 1)) * PADDED_DIM + (i >> 1) * 8 + tile_column()) =
        make_float2(sums[2 * i], sums[2 * i + 1]);
  __syncthreads();
  for (int i = thread; i < count * (HEAD_DIM / 2); i += WARPS * 32) {
    const int head = i / (HEAD_DIM / 2), d = i % (HEAD_DIM / 2) * 2;
    float largest = NEGATIVE_INFINITY, total = 0;
    for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, totals[w][head].x);
    float2 sum = make_float2(0, 0);
    for (int w = 0; w < WARPS; w++) {
      if (totals[w][head].y == 0) continue;
      const float factor = exp2_fast(totals[w][head].x - largest);
      const float2 x = *(const float2 *)(warp_sums + (w * HEADS + head) * PADDED_DIM + d);
      sum.x += factor * x.x;
      sum.y += factor * x.y;
      total += factor * totals[w][head].y;
    }
    if (count_of_splits == 1) {
      *(u32 *)(o + query * stride_o + (head0 + head) * HEAD_DIM + d) = pack_bf16(sum.x / total, sum.y / total);
    } else {
      const i64 at = ((i64)query * heads + head0 + head) * count_of_splits + split;
      *(float2 *)(splits.sums + at * HEAD_DIM + d) = sum;
      if (d == 0) splits.totals[at] = make_float2(largest, total);
    }
  }
}

extern "C" __global__ void __launch_bounds__(128)
attention_cached_combine(Sequences sequences, Splits splits, u16 *o, i64 stride_o, int queries, int heads) {
  take_turn();
  const int query = blockIdx.x, head = blockIdx.y, count = (int)splits.count;
  if (is_tiled(sequences, query, queries)) return;
  const i64 first = ((i64)query * heads + head) * count;
  float largest = NEGATIVE_INFINITY;
  for (int i = 0; i < count; i++) largest = fmaxf(largest, splits.totals[first + i].x);
  for (int d = threadIdx.x * 2; d < HEAD_DIM; d += 256) {
    float low = 0, high = 0, total = 0;
    for (int i = 0; i < count; i++) {
      const float2 of = splits.totals[first + i];
      if (of.y == 0) continue;
      const float factor = exp2_fast(of.x - largest);
      const float2 x = *(const float2 *)(splits.sums + (first + i) * HEAD_DIM + d);
      low += factor * x.x;
      high += factor * x.y;
      total += factor * of.y;
    }
    *(u32 *)(o + query * stride_o + head * HEAD_DIM + d) = pack_bf16(low / total, high / total);
  }
}

#endif
