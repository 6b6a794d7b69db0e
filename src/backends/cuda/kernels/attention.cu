// attention: causal softmax attention within segments (src/ops/attention.ts). FlashAttention-2's forward (ar_xiv 2307.08691):
// scores of one block of queries and one of keys at a time, with a running softmax. Blocks that no query of the tile sees
// are not visited. No query's result depends on the launch: equal calls give equal bits.

#include "attention-rows.cuh"
#if PATH == SIMPLE
#include "attention-simple.cuh"
#elif PATH == MMA
#include "attention-mma.cuh"
#else
#include "attention-hopper.cuh"
#endif

#if PATH == SIMPLE

#define WARPS 4

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention(const TYPE *q, i64 stride_q, const TYPE *k, i64 stride_k, const TYPE *v, i64 stride_v, Segments segments,
          TYPE *o, i64 stride_o, float *lse, i64 stride_lse, int rows, int heads, int share, float scale, float soft_cap) {
  __shared__ float queries[WARPS][HEAD_DIM];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row = blockIdx.x * WARPS + warp, head = blockIdx.y;
  if (row >= rows) return;
  stage_row(queries[warp], q + row * stride_q + head * HEAD_DIM, lane);
  __syncwarp();
  const int group = head / share * HEAD_DIM;
  const float log_sum = attend_row(queries[warp], k + group, stride_k, v + group, stride_v, segments.lowest_key(row), row, scale, soft_cap,
                                 o + row * stride_o + head * HEAD_DIM, lane);
  if (lane == 0) lse[row * stride_lse + head] = log_sum;
}

#elif PATH == MMA

#define QUERIES 64  // and KEYS, as many as the shared memory of a block has room for

extern "C" __global__ void __launch_bounds__(128)
attention(const u16 *q, i64 stride_q, const u16 *k, i64 stride_k, const u16 *v, i64 stride_v, Segments segments, u16 *o, i64 stride_o,
          float *lse, i64 stride_lse, int rows, int heads, int share, float scale, float soft_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  const u32 query_tile = shared_address(shared), key_tile = query_tile + QUERIES * PITCH, value_tile = key_tile + KEYS * PITCH;
  const int thread = threadIdx.x, warp = thread >> 5;
  const int tiles = (rows + QUERIES - 1) / QUERIES;
  const int head = blockIdx.x % heads, first = (tiles - 1 - (int)(blockIdx.x / heads)) * QUERIES;  // the longest first
  const int last = least(first + QUERIES, rows) - 1, group = head / share * HEAD_DIM;
  const Scoring scoring(scale, soft_cap);

  load_tile<QUERIES, 128>(query_tile, q + head * HEAD_DIM, stride_q, first, rows, thread);
  int low[2], high[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    high[i] = first + warp * 16 + tile_row() + 8 * i;
    low[i] = high[i] < rows ? segments.lowest_key(high[i]) : high[i] + 1;
  }
  const int begin = segments.lowest_key(first) / KEYS, end = (least(last + 1, segments.end()) + KEYS - 1) / KEYS;
  const int last_low = segments.lowest_key(last);

  float sums[PADDED_DIM / 2] = {};
  Softmax softmax;
  for (int block = end - 1; block >= begin; block--) {
    const int key = block * KEYS;
    __syncthreads();
    load_tile<KEYS, 128>(key_tile, k + group, stride_k, key, rows, thread);
    commit_copies();
    load_tile<KEYS, 128>(value_tile, v + group, stride_v, key, rows, thread);
    commit_copies();
    await_copies<1>();
    __syncthreads();
    float scores[KEYS / 2], rescale[2];
    score_tile(scores, query_tile + warp * 16 * PITCH, key_tile);
    if (key + KEYS - 1 > first || key < last_low) mask_tile(scores, key + tile_column(), low, high);
    softmax.step(scores, scoring, rescale);
#pragma unroll
    for (int i = 0; i < PADDED_DIM / 2; i++) sums[i] *= rescale[(i >> 1) & 1];
    u32 weights[KEYS / 4];
    pack_tile(scores, weights);
    await_copies<0>();
    __syncthreads();
    add_product(sums, weights, value_tile);
  }
  await_copies<0>();
  float factor[2], log_sums[2];
  softmax.finish(scoring, factor, log_sums);
  store_tile(sums, o + head * HEAD_DIM, stride_o, first + warp * 16, rows, 0, factor);
  if (thread % 4 == 0)
    for (int i = 0; i < 2; i++)
      if (high[i] < rows) lse[high[i] * stride_lse + head] = log_sums[i];
}

#else  // HOPPER: one warpgroup loads by TMA, the others (64 queries each) multiply by wgmma

// GROUPS of them, tiles of KEYS keys, STAGES of these: given by the host.
#define QUERIES (64 * GROUPS)

extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
attention(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
          Segments segments, const __grid_constant__ TensorMap o, float *lse, i64 stride_lse, int rows, int heads, int share,
          int heads_at_once, float scale, float soft_cap) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ u64 barriers[1 + 4 * STAGES];
  const u32 query_tile = aligned_shared(shared), key_tiles = query_tile + tile_bytes(QUERIES);
  const u32 value_tiles = key_tiles + STAGES * tile_bytes(KEYS);
  const u32 queries_full = shared_address(barriers), keys_full = queries_full + 8, values_full = keys_full + 8 * STAGES;
  const u32 keys_empty = values_full + 8 * STAGES, values_empty = keys_empty + 8 * STAGES;

  const int tiles = (rows + QUERIES - 1) / QUERIES;
  const TileOfHead at = tile_of_head(blockIdx.x, tiles, heads, heads_at_once);
  const int head = at.head, first = (tiles - 1 - at.tile) * QUERIES;  // the longest first
  const int last = least(first + QUERIES, rows) - 1, end = segments.end();
  const int begin = segments.lowest_key(first) / KEYS;
  const int blocks = first < end ? (least(last + 1, end) + KEYS - 1) / KEYS - begin : 0;

  if (threadIdx.x == 0) {
    init_barrier(queries_full, 1);
    for (int i = 0; i < STAGES; i++) {
      init_barrier(keys_full + 8 * i, 1);
      init_barrier(values_full + 8 * i, 1);
      init_barrier(keys_empty + 8 * i, GROUPS * 4);
      init_barrier(values_empty + 8 * i, GROUPS * 4);
    }
    fence_barriers();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    give_registers<(GROUPS == 2 ? 24 : 32)>();
    if (threadIdx.x == 0 && blocks > 0) {
      expect_bytes(queries_full, tile_bytes(QUERIES));
      load_tiles<QUERIES, 64>(query_tile, q, queries_full, head, first);
      Ring<STAGES> ring;
      for (int block = blocks - 1; block >= 0; block--, ring.next()) {
        const int key = (begin + block) * KEYS;
        await_barrier(ring.of(keys_empty), ring.phase ^ 1);
        expect_bytes(ring.of(keys_full), tile_bytes(KEYS));
        load_tiles<KEYS, KEYS>(key_tiles + ring.at * tile_bytes(KEYS), k, ring.of(keys_full), head / share, key);
        await_barrier(ring.of(values_empty), ring.phase ^ 1);
        expect_bytes(ring.of(values_full), tile_bytes(KEYS));
        load_tiles<KEYS, KEYS>(value_tiles + ring.at * tile_bytes(KEYS), v, ring.of(values_full), head / share, key);
      }
    }
  } else {
    take_registers<(GROUPS == 2 ? 240 : 160)>();
    const int warpgroup = threadIdx.x / 128 - 1, warp = (threadIdx.x >> 5) & 3, lane = threadIdx.x & 31;
    const Scoring scoring(scale, soft_cap);
    int low[2], high[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      high[i] = first + warpgroup * 64 + warp * 16 + tile_row() + 8 * i;
      low[i] = high[i] < rows ? segments.lowest_key(high[i]) : high[i] + 1;
    }
    const int last_low = segments.lowest_key(last);
    const u32 queries = query_tile + warpgroup * 64 * 128;
    float sums[PADDED_DIM / 2], scores[KEYS / 2], rescale[2];
    u32 weights[KEYS / 4];
#pragma unroll
    for (int i = 0; i < PADDED_DIM / 2; i++) sums[i] = 0;
    Softmax softmax;
    if (blocks > 0) {
      Ring<STAGES> keys, values;
      int key = (begin + blocks - 1) * KEYS;
      await_barrier(queries_full, 0);
      await_barrier(keys.of(keys_full), keys.phase);
      score_tiles<QUERIES, KEYS>(scores, queries, key_tiles);
      await_products<0>();
      pin(scores);
      if (lane == 0) arrive(keys.of(keys_empty));
      keys.next();
      if (key + KEYS - 1 > first || key < last_low) mask_tile(scores, key + tile_column(), low, high);
      softmax.step(scores, scoring, rescale);
      pack_tile(scores, weights);
      for (int block = blocks - 2; block >= 0; block--) {
        // The scores of this block and the values of the one before are multiplied while its softmax is computed.
        key = (begin + block) * KEYS;
        await_barrier(keys.of(keys_full), keys.phase);
        score_tiles<QUERIES, KEYS>(scores, queries, key_tiles + keys.at * tile_bytes(KEYS));
        await_barrier(values.of(values_full), values.phase);
        add_tiles<KEYS>(sums, weights, value_tiles + values.at * tile_bytes(KEYS));
        await_products<1>();
        pin(scores);
        if (lane == 0) arrive(keys.of(keys_empty));
        keys.next();
        if (key + KEYS - 1 > first || key < last_low) mask_tile(scores, key + tile_column(), low, high);
        softmax.step(scores, scoring, rescale);
        await_products<0>();
        pin(sums);
        if (lane == 0) arrive(values.of(values_empty));
        values.next();
#pragma unroll
        for (int i = 0; i < PADDED_DIM / 2; i++) sums[i] *= rescale[(i >> 1) & 1];
        pack_tile(scores, weights);
      }
      await_barrier(values.of(values_full), values.phase);
      add_tiles<KEYS>(sums, weights, value_tiles + values.at * tile_bytes(KEYS));
      await_products<0>();
      pin(sums);
    }
    float factor[2], log_sums[2];
    softmax.finish(scoring, factor, log_sums);
    store_tiles<QUERIES>(sums, queries, o, head, first + warpgroup * 64, 0, factor, warpgroup + 1);
    if (lane % 4 == 0)
      for (int i = 0; i < 2; i++)
        if (high[i] < rows) lse[high[i] * stride_lse + head] = log_sums[i];
  }
}

#endif
