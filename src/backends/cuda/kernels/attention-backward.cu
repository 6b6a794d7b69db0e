// attention_backward: the gradients of causal softmax attention (src/ops/attention-backward.ts), without atomics: equal calls
// give equal bits. Three launches, four where the heads of a group are split:
//   attention_delta          δ = dO·o and the log-sum-exp, turned to [heads, rows] so that a block of queries is contiguous
//   attention_key_gradient    a block of keys stays, queries go past: d_v = Pᵀ·dO, d_k = scale·dSᵀ·Q, over the heads of the group
//   attention_query_gradient  a block of queries stays, keys go past: d_q = scale·d_s·K
//   attention_sum_parts       adds the parts in order where a group's heads were split over blocks
// The scores are computed in both of the middle ones: seven products instead of five, and no sum shared between blocks.

#include "attention-rows.cuh"
#if PATH == SIMPLE
#include "attention-simple.cuh"
#elif PATH == MMA
#include "attention-mma.cuh"
#else
#include "attention-hopper.cuh"
#endif

/** [heads, rows_padded] each; rows that are no query of a segment have lse = +∞, so their weights are 0. */
struct Statistics {
  float *lse;  // in units of log2
  float *delta;
  i64 rows_padded;
};

/** The weight of a score, and its product with the slope of the cap. Masked scores (−∞) weigh 0. */
INLINE float weight_of(float score, float lse, const Scoring &scoring, float &weight) {
#if SOFT_CAP
  const float t = scoring.tanh_of(score);
  weight = score == NEGATIVE_INFINITY ? 0 : exp2_fast(scoring.cap_log2 * t - lse);
  return weight * (1 - t * t);
#else
  weight = exp2_fast(score * scoring.to_log2 - lse);
  return weight;
#endif
}

#if PATH == SIMPLE

#define WARPS 4

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention_delta(const TYPE *o, i64 stride_o, const TYPE *dO, i64 stride_dO, const float *lse, i64 stride_lse, Segments segments,
               Statistics statistics, int rows) {
  const int lane = threadIdx.x & 31, row = blockIdx.x * WARPS + (threadIdx.x >> 5), head = blockIdx.y;
  if (row >= rows) return;
  float sum = 0;
  for (int d = lane; d < HEAD_DIM; d += 32)
    sum += to_float(o[row * stride_o + head * HEAD_DIM + d]) * to_float(dO[row * stride_dO + head * HEAD_DIM + d]);
  sum = warp_sum(sum);
  if (lane != 0) return;
  statistics.delta[head * statistics.rows_padded + row] = sum;
  statistics.lse[head * statistics.rows_padded + row] = lse[row * stride_lse + head];  // natural units here
}

/** d_s of one query and one key, and the weight P. */
INLINE float slope_of(const float *query, const float *gradient, const TYPE *key, const TYPE *value, float lse, float delta,
                     float scale, float soft_cap, float &weight) {
  float cap_slope;
  weight = expf(score_of(dot_row(query, key), scale, soft_cap, cap_slope) - lse);
  return weight * (dot_row(gradient, value) - delta) * cap_slope;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention_query_gradient(const TYPE *q, i64 stride_q, const TYPE *k, i64 stride_k, const TYPE *v, i64 stride_v, Segments segments,
                       const TYPE *dO, i64 stride_dO, Statistics statistics, TYPE *dq, i64 stride_dq, int rows, int heads,
                       int share, float scale, float soft_cap) {
  __shared__ float queries[WARPS][HEAD_DIM], gradients[WARPS][HEAD_DIM];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = blockIdx.x * WARPS + warp, head = blockIdx.y;
  if (row >= rows) return;
  const int group = head / share * HEAD_DIM;
  stage_row(queries[warp], q + row * stride_q + head * HEAD_DIM, lane);
  stage_row(gradients[warp], dO + row * stride_dO + head * HEAD_DIM, lane);
  __syncwarp();
  const float lse = statistics.lse[head * statistics.rows_padded + row], delta = statistics.delta[head * statistics.rows_padded + row];
  Sums sums;
  for (int first = segments.lowest_key(row); first <= row; first += 32) {
    const int key = first + lane;
    float weight, slope = 0;
    if (key <= row)
      slope = slope_of(queries[warp], gradients[warp], k + key * stride_k + group, v + key * stride_v + group, lse, delta, scale, soft_cap, weight);
    sums.add(slope, least(32, row + 1 - first), k + first * stride_k + group, stride_k, lane);
  }
  sums.store(dq + row * stride_dq + head * HEAD_DIM, scale, lane);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
attention_key_gradient(const TYPE *q, i64 stride_q, const TYPE *k, i64 stride_k, const TYPE *v, i64 stride_v, Segments segments,
                     const TYPE *dO, i64 stride_dO, Statistics statistics, TYPE *dk, i64 stride_dk, TYPE *dv, i64 stride_dv,
                     int rows, int heads, int share, float scale, float soft_cap) {
  __shared__ float keys[WARPS][HEAD_DIM], values[WARPS][HEAD_DIM];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = blockIdx.x * WARPS + warp, group = blockIdx.y;
  if (row >= rows) return;
  stage_row(keys[warp], k + row * stride_k + group * HEAD_DIM, lane);
  stage_row(values[warp], v + row * stride_v + group * HEAD_DIM, lane);
  __syncwarp();
  const int end = segments.query_end(row);
  Sums key_sums, value_sums;
  for (int head = group * share; head < (group + 1) * share; head++)
    for (int first = row; first < end; first += 32) {
      const int query = first + lane, count = least(32, end - first);
      const TYPE *queries = q + first * stride_q + head * HEAD_DIM, *gradients = dO + first * stride_dO + head * HEAD_DIM;
      float weight = 0, slope = 0;
      if (query < end)
        slope = slope_of(keys[warp], values[warp], queries + lane * stride_q, gradients + lane * stride_dO,
                        statistics.lse[head * statistics.rows_padded + query], statistics.delta[head * statistics.rows_padded + query],
                        scale, soft_cap, weight);
      key_sums.add(slope, count, queries, stride_q, lane);
      value_sums.add(weight, count, gradients, stride_dO, lane);
    }
  key_sums.store(dk + row * stride_dk + group * HEAD_DIM, scale, lane);
  value_sums.store(dv + row * stride_dv + group * HEAD_DIM, 1, lane);
}

#else  // MMA, HOPPER

#define DELTA_ROWS 64
#define DELTA_LANES (HEAD_DIM > 128 ? 32 : HEAD_DIM > 64 ? 16 : HEAD_DIM > 32 ? 8 : HEAD_DIM > 16 ? 4 : HEAD_DIM > 8 ? 2 : 1)

extern "C" __global__ void __launch_bounds__(256)
attention_delta(const u16 *o, i64 stride_o, const u16 *dO, i64 stride_dO, const float *lse, i64 stride_lse, Segments segments,
               Statistics statistics, int rows) {
  const int head = blockIdx.y, chunk = threadIdx.x % DELTA_LANES, end = segments.end();
#pragma unroll
  for (int r = threadIdx.x / DELTA_LANES; r < DELTA_ROWS; r += 256 / DELTA_LANES) {
    const int row = blockIdx.x * DELTA_ROWS + r;
    float sum = 0;
    if (row < end && chunk * 8 < HEAD_DIM) {
      const uint4 a = *(const uint4 *)(o + row * stride_o + head * HEAD_DIM + chunk * 8);
      const uint4 b = *(const uint4 *)(dO + row * stride_dO + head * HEAD_DIM + chunk * 8);
      sum = low_bf16(a.x) * low_bf16(b.x) + high_bf16(a.x) * high_bf16(b.x) + low_bf16(a.y) * low_bf16(b.y) + high_bf16(a.y) * high_bf16(b.y) +
            low_bf16(a.z) * low_bf16(b.z) + high_bf16(a.z) * high_bf16(b.z) + low_bf16(a.w) * low_bf16(b.w) + high_bf16(a.w) * high_bf16(b.w);
    }
#pragma unroll
    for (int step = DELTA_LANES / 2; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffff, sum, step);
    if (chunk != 0) continue;
    statistics.delta[head * statistics.rows_padded + row] = sum;
    statistics.lse[head * statistics.rows_padded + row] = row < end ? lse[row * stride_lse + head] * LOG2_E : POSITIVE_INFINITY;
  }
}

// Where a group's heads are split into parts, each part's sums as f32: [parts, 2 (dk, dv), rows, groups·HEAD_DIM].
extern "C" __global__ void __launch_bounds__(256)
attention_sum_parts(const float *sums, int parts, u16 *dk, i64 stride_dk, u16 *dv, i64 stride_dv, int rows, int columns) {
  const i64 pair = (i64)blockIdx.x * 256 + threadIdx.x;
  const int row = pair / (columns / 2), column = pair % (columns / 2) * 2;
  if (row >= rows) return;
  const bool of_values = blockIdx.y;
  float low = 0, high = 0;
  for (int part = 0; part < parts; part++) {
    const float2 x = *(const float2 *)(sums + (((i64)part * 2 + of_values) * rows + row) * columns + column);
    low += x.x;
    high += x.y;
  }
  u16 *target = of_values ? dv + row * stride_dv : dk + row * stride_dk;
  *(u32 *)(target + column) = pack_bf16(low, high);
}

/** A thread's two rows of sums as f32 rows of `columns`; from row `end` on they stay out. */
template <int R>
INLINE void store_sums(const float (&t)[R], float *target, i64 columns, int first, int end, int column, float factor) {
#pragma unroll
  for (int i = 0; i < R / 2; i++) {
    const int row = first + tile_row() + 8 * (i & 1), d = column + (i >> 1) * 8 + tile_column();
    if (row < end && d < HEAD_DIM) *(float2 *)(target + row * columns + d) = make_float2(t[2 * i] * factor, t[2 * i + 1] * factor);
  }
}

/** Raw scores [keys, queries] to weights, packed, and in place to weights times the cap's slope. `lse` is that of this thread's first column. */
template <int R>
INLINE void weigh_columns(float (&t)[R], u32 (&weights)[R / 2], const float *lse, const Scoring &scoring) {
#pragma unroll
  for (int i = 0; i < R / 4; i++) {
    const float2 l = *(const float2 *)(lse + 8 * i);
    float w[4];
    t[4 * i] = weight_of(t[4 * i], l.x, scoring, w[0]);
    t[4 * i + 1] = weight_of(t[4 * i + 1], l.y, scoring, w[1]);
    t[4 * i + 2] = weight_of(t[4 * i + 2], l.x, scoring, w[2]);
    t[4 * i + 3] = weight_of(t[4 * i + 3], l.y, scoring, w[3]);
    weights[2 * i] = pack_bf16(w[0], w[1]);
    weights[2 * i + 1] = pack_bf16(w[2], w[3]);
  }
}
/** d_s = weights ⊙ (products − δ), packed. */
template <int R>
INLINE void slope_columns(const float (&weights)[R], const float (&products)[R], const float *delta, u32 (&slopes)[R / 2]) {
#pragma unroll
  for (int i = 0; i < R / 4; i++) {
    const float2 d = *(const float2 *)(delta + 8 * i);
    slopes[2 * i] = pack_bf16(weights[4 * i] * (products[4 * i] - d.x), weights[4 * i + 1] * (products[4 * i + 1] - d.y));
    slopes[2 * i + 1] = pack_bf16(weights[4 * i + 2] * (products[4 * i + 2] - d.x), weights[4 * i + 3] * (products[4 * i + 3] - d.y));
  }
}

/** The queries that see a block of keys, in blocks of QUERIES. */
template <int KEYS, int QUERIES>
struct QueryRange {
  int begin = 0, end = 0;
  int whole = 0;  // queries below it are seen by every key of the block that they come after
  INLINE QueryRange(const Segments &segments, int first) {
    const int stop = least(first + KEYS, segments.end());
    if (first >= stop) return;
    begin = first / QUERIES;
    end = (segments.query_end(stop - 1) + QUERIES - 1) / QUERIES;
    whole = segments.query_end(first);
  }
  INLINE int count() const { return end - begin; }
};

#if PATH == MMA

#define STILL 64  // rows that stay; MOVING, which go past at once, as many as the shared memory of a block has room for
#define COLUMNS (PADDED_DIM > 128 ? (PADDED_DIM / 2 + 15) / 16 * 16 : PADDED_DIM)  // of d_k and d_v in one block: registers for more are lacking

extern "C" __global__ void __launch_bounds__(128)
attention_key_gradient(const u16 *q, i64 stride_q, const u16 *k, i64 stride_k, const u16 *v, i64 stride_v, Segments segments, const u16 *dO,
                     i64 stride_dO, Statistics statistics, u16 *dk, i64 stride_dk, u16 *dv, i64 stride_dv, float *part_sums, int heads_of_part,
                     int rows, int heads, int share, float scale, float soft_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float lse[MOVING], delta[MOVING];
  const u32 key_tile = shared_address(shared), value_tile = key_tile + STILL * PITCH;
  const u32 query_tile = value_tile + STILL * PITCH, gradient_tile = query_tile + MOVING * PITCH;
  const int thread = threadIdx.x, warp = thread >> 5, groups = heads / share, column = blockIdx.y * COLUMNS;
  const int group = blockIdx.x % groups, first = blockIdx.x / groups * STILL;  // the longest first
  const Scoring scoring(scale, soft_cap);
  const QueryRange<STILL, MOVING> range(segments, first);
  int low[2], high[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    low[i] = first + warp * 16 + tile_row() + 8 * i;
    high[i] = low[i] < rows ? segments.query_end(low[i]) - 1 : -1;
  }
  load_tile<STILL, 128>(key_tile, k + group * HEAD_DIM, stride_k, first, rows, thread);
  load_tile<STILL, 128>(value_tile, v + group * HEAD_DIM, stride_v, first, rows, thread);
  float key_sums[COLUMNS / 2] = {}, value_sums[COLUMNS / 2] = {};
  const int head_begin = group * share + blockIdx.z * heads_of_part, head_end = least(head_begin + heads_of_part, (group + 1) * share);
  for (int head = head_begin; head < head_end; head++)
    for (int block = range.begin; block < range.end; block++) {
      const int query = block * MOVING;
      __syncthreads();
      load_tile<MOVING, 128>(query_tile, q + head * HEAD_DIM, stride_q, query, rows, thread);
      commit_copies();
      load_tile<MOVING, 128>(gradient_tile, dO + head * HEAD_DIM, stride_dO, query, rows, thread);
      commit_copies();
      if (thread < MOVING) {
        lse[thread] = statistics.lse[head * statistics.rows_padded + query + thread];
        delta[thread] = statistics.delta[head * statistics.rows_padded + query + thread];
      }
      await_copies<1>();
      __syncthreads();
      float scores[MOVING / 2], products[MOVING / 2];
      u32 weights[MOVING / 4], slopes[MOVING / 4];
      score_tile(scores, key_tile + warp * 16 * PITCH, query_tile);
      if (query < first + STILL - 1 || query + MOVING > range.whole) mask_tile(scores, query + tile_column(), low, high);
      weigh_columns(scores, weights, lse + tile_column(), scoring);
      await_copies<0>();
      __syncthreads();
      add_product(value_sums, weights, gradient_tile + column * 2);
      score_tile(products, value_tile + warp * 16 * PITCH, gradient_tile);
      slope_columns(scores, products, delta + tile_column(), slopes);
      add_product(key_sums, slopes, query_tile + column * 2);
    }
  await_copies<0>();
  if (part_sums) {
    const i64 columns = (i64)groups * HEAD_DIM;
    float *target = part_sums + blockIdx.z * 2 * rows * columns + group * HEAD_DIM;
    store_sums(key_sums, target, columns, first + warp * 16, rows, column, scale);
    store_sums(value_sums, target + rows * columns, columns, first + warp * 16, rows, column, 1);
  } else {
    const float scales[2] = {scale, scale}, ones[2] = {1, 1};
    store_tile(key_sums, dk + group * HEAD_DIM, stride_dk, first + warp * 16, rows, column, scales);
    store_tile(value_sums, dv + group * HEAD_DIM, stride_dv, first + warp * 16, rows, column, ones);
  }
}

extern "C" __global__ void __launch_bounds__(128)
attention_query_gradient(const u16 *q, i64 stride_q, const u16 *k, i64 stride_k, const u16 *v, i64 stride_v, Segments segments,
                       const u16 *dO, i64 stride_dO, Statistics statistics, u16 *dq, i64 stride_dq, int rows, int heads, int share,
                       float scale, float soft_cap) {
  extern __shared__ __align__(128) unsigned char shared[];
  const u32 query_tile = shared_address(shared), gradient_tile = query_tile + STILL * PITCH;
  const u32 key_tile = gradient_tile + STILL * PITCH, value_tile = key_tile + MOVING * PITCH;
  const int thread = threadIdx.x, warp = thread >> 5, tiles = (rows + STILL - 1) / STILL;
  const int head = blockIdx.x % heads, first = (tiles - 1 - (int)(blockIdx.x / heads)) * STILL;  // the longest first
  const int last = least(first + STILL, rows) - 1, group = head / share * HEAD_DIM;
  const Scoring scoring(scale, soft_cap);
  load_tile<STILL, 128>(query_tile, q + head * HEAD_DIM, stride_q, first, rows, thread);
  load_tile<STILL, 128>(gradient_tile, dO + head * HEAD_DIM, stride_dO, first, rows, thread);
  int low[2], high[2];
  float lse[2], delta[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    high[i] = first + warp * 16 + tile_row() + 8 * i;
    low[i] = high[i] < rows ? segments.lowest_key(high[i]) : high[i] + 1;
    lse[i] = statistics.lse[head * statistics.rows_padded + high[i]];
    delta[i] = statistics.delta[head * statistics.rows_padded + high[i]];
  }
  const int begin = segments.lowest_key(first) / MOVING, end = (least(last + 1, segments.end()) + MOVING - 1) / MOVING;
  const int last_low = segments.lowest_key(last);
  float sums[PADDED_DIM / 2] = {};
  for (int block = end - 1; block >= begin; block--) {
    const int key = block * MOVING;
    __syncthreads();
    load_tile<MOVING, 128>(key_tile, k + group, stride_k, key, rows, thread);
    commit_copies();
    load_tile<MOVING, 128>(value_tile, v + group, stride_v, key, rows, thread);
    commit_copies();
    await_copies<1>();
    __syncthreads();
    float scores[MOVING / 2], products[MOVING / 2], weight;
    score_tile(scores, query_tile + warp * 16 * PITCH, key_tile);
    if (key + MOVING - 1 > first || key < last_low) mask_tile(scores, key + tile_column(), low, high);
    await_copies<0>();
    __syncthreads();
    score_tile(products, gradient_tile + warp * 16 * PITCH, value_tile);
#pragma unroll
    for (int i = 0; i < MOVING / 2; i++) {
      const int row = (i >> 1) & 1;
      scores[i] = weight_of(scores[i], lse[row], scoring, weight) * (products[i] - delta[row]);
    }
    u32 slopes[MOVING / 4];
    pack_tile(scores, slopes);
    add_product(sums, slopes, key_tile);
  }
  await_copies<0>();
  const float scales[2] = {scale, scale};
  store_tile(sums, dq + head * HEAD_DIM, stride_dq, first + warp * 16, rows, 0, scales);
}

#else  // HOPPER: one warpgroup loads by TMA, two multiply by wgmma, 64 rows of the still block each

#define GROUPS 2
#define STILL (64 * GROUPS)
#define COLUMNS (PADDED_DIM > 128 ? 128 : PADDED_DIM)  // of dK and dV in one block
// Past go MOVING_QUERIES rows of q and dO, and MOVING_KEYS rows of k and v, each with its number of stages: given by the host. q and k are
// needed twice, for the scores and for the last product, so they get more stages where memory is short.

extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
attention_key_gradient(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                     Segments segments, const __grid_constant__ TensorMap dO, Statistics statistics, const __grid_constant__ TensorMap dk,
                     const __grid_constant__ TensorMap dv, float *part_sums, int heads_of_part, int rows, int heads, int share, float scale,
                     float soft_cap) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ u64 barriers[1 + 2 * QUERY_STAGES + 2 * GRADIENT_STAGES];
  __shared__ __align__(16) float lse[QUERY_STAGES][MOVING_QUERIES], delta[GRADIENT_STAGES][MOVING_QUERIES];
  const u32 key_tile = aligned_shared(shared), value_tile = key_tile + tile_bytes(STILL), query_tiles = value_tile + tile_bytes(STILL);
  const u32 gradient_tiles = query_tiles + QUERY_STAGES * tile_bytes(MOVING_QUERIES);
  const u32 still_full = shared_address(barriers), queries_full = still_full + 8, queries_empty = queries_full + 8 * QUERY_STAGES;
  const u32 gradients_full = queries_empty + 8 * QUERY_STAGES, gradients_empty = gradients_full + 8 * GRADIENT_STAGES;

  const int groups = heads / share, group = blockIdx.x % groups, first = blockIdx.x / groups * STILL;  // the longest first
  const QueryRange<STILL, MOVING_QUERIES> range(segments, first);
  const int head_begin = group * share + blockIdx.z * heads_of_part, head_end = least(head_begin + heads_of_part, (group + 1) * share);
  const int blocks = (head_end - head_begin) * range.count();

  if (threadIdx.x == 0) {
    init_barrier(still_full, 1);
    for (int i = 0; i < QUERY_STAGES; i++) init_barrier(queries_full + 8 * i, 1), init_barrier(queries_empty + 8 * i, GROUPS * 128);
    for (int i = 0; i < GRADIENT_STAGES; i++) init_barrier(gradients_full + 8 * i, 1), init_barrier(gradients_empty + 8 * i, GROUPS * 128);
    fence_barriers();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0 && blocks > 0) {
      expect_bytes(still_full, 2 * tile_bytes(STILL));
      load_tiles<STILL, 64>(key_tile, k, still_full, group, first);
      load_tiles<STILL, 64>(value_tile, v, still_full, group, first);
      Ring<QUERY_STAGES> queries;
      Ring<GRADIENT_STAGES> gradients;
      for (int head = head_begin; head < head_end; head++)
        for (int block = range.begin; block < range.end; block++, queries.next(), gradients.next()) {
          const int query = block * MOVING_QUERIES;
          const i64 at = head * statistics.rows_padded + query;
          await_barrier(queries.of(queries_empty), queries.phase ^ 1);
          expect_bytes(queries.of(queries_full), tile_bytes(MOVING_QUERIES) + MOVING_QUERIES * 4);
          load_tiles<MOVING_QUERIES, 64>(query_tiles + queries.at * tile_bytes(MOVING_QUERIES), q, queries.of(queries_full), head, query);
          load_floats(shared_address(lse[queries.at]), statistics.lse + at, MOVING_QUERIES, queries.of(queries_full));
          await_barrier(gradients.of(gradients_empty), gradients.phase ^ 1);
          expect_bytes(gradients.of(gradients_full), tile_bytes(MOVING_QUERIES) + MOVING_QUERIES * 4);
          load_tiles<MOVING_QUERIES, 64>(gradient_tiles + gradients.at * tile_bytes(MOVING_QUERIES), dO, gradients.of(gradients_full), head, query);
          load_floats(shared_address(delta[gradients.at]), statistics.delta + at, MOVING_QUERIES, gradients.of(gradients_full));
        }
    }
  } else {
    take_registers<240>();
    const int warpgroup = threadIdx.x / 128 - 1, warp = (threadIdx.x >> 5) & 3;
    const Scoring scoring(scale, soft_cap);
    int low[2], high[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      low[i] = first + warpgroup * 64 + warp * 16 + tile_row() + 8 * i;
      high[i] = low[i] < rows ? segments.query_end(low[i]) - 1 : -1;
    }
    const u32 keys = key_tile + warpgroup * 64 * 128, values = value_tile + warpgroup * 64 * 128;
    const u32 slice = blockIdx.y * (COLUMNS / 64) * tile_bytes(MOVING_QUERIES) / CHUNKS;
    float key_sums[COLUMNS / 2], value_sums[COLUMNS / 2], scores[MOVING_QUERIES / 2], products[MOVING_QUERIES / 2];
    u32 weights[MOVING_QUERIES / 4], slopes[MOVING_QUERIES / 4];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) key_sums[i] = value_sums[i] = 0;
    pin(key_sums);
    pin(value_sums);
    Ring<QUERY_STAGES> queries;
    Ring<GRADIENT_STAGES> gradients;
    int block = range.begin;
    // Open at the end of a step: nothing. What the tensor cores do meanwhile: d_p during the weights, d_v during the slopes.
    const auto step = [&](bool is_last) {
      const int query = block * MOVING_QUERIES;
      const u32 query_tile = query_tiles + queries.at * tile_bytes(MOVING_QUERIES);
      const u32 gradient_tile = gradient_tiles + gradients.at * tile_bytes(MOVING_QUERIES);
      const u32 query_done = queries.of(queries_empty);
      await_barrier(gradients.of(gradients_full), gradients.phase);
      score_tiles<STILL, MOVING_QUERIES>(products, values, gradient_tile);
      if (query < first + STILL - 1 || query + MOVING_QUERIES > range.whole) mask_tile(scores, query + tile_column(), low, high);
      weigh_columns(scores, weights, lse[queries.at] + tile_column(), scoring);
      add_tiles<MOVING_QUERIES>(value_sums, weights, gradient_tile + slice);
      await_products<1>();
      pin(products);
      slope_columns(scores, products, delta[gradients.at] + tile_column(), slopes);
      add_tiles<MOVING_QUERIES>(key_sums, slopes, query_tile + slice);
      queries.next();
      if (!is_last) {
        await_barrier(queries.of(queries_full), queries.phase);
        score_tiles<STILL, MOVING_QUERIES>(scores, keys, query_tiles + queries.at * tile_bytes(MOVING_QUERIES));
      }
      await_products<0>();
      pin(scores);
      pin(key_sums);
      pin(value_sums);
      arrive(query_done), arrive(gradients.of(gradients_empty));  // every lane, for each has read its own lse and δ
      gradients.next();
      if (++block == range.end) block = range.begin;
    };
    if (blocks > 0) {
      await_barrier(still_full, 0);
      await_barrier(queries.of(queries_full), queries.phase);
      score_tiles<STILL, MOVING_QUERIES>(scores, keys, query_tiles);
      await_products<0>();
      pin(scores);
      for (int i = 0; i < blocks - 1; i++) step(false);
      step(true);
    }
    const int row = first + warpgroup * 64;
    if (part_sums) {
      const i64 columns = (i64)groups * HEAD_DIM;
      float *target = part_sums + blockIdx.z * 2 * rows * columns + group * HEAD_DIM;
      store_sums(key_sums, target, columns, row + warp * 16, rows, blockIdx.y * COLUMNS, scale);
      store_sums(value_sums, target + rows * columns, columns, row + warp * 16, rows, blockIdx.y * COLUMNS, 1);
    } else {
      const float scales[2] = {scale, scale}, ones[2] = {1, 1};
      store_tiles<STILL>(key_sums, keys, dk, group, row, blockIdx.y * COLUMNS, scales, warpgroup + 1);
      store_tiles<STILL>(value_sums, values, dv, group, row, blockIdx.y * COLUMNS, ones, warpgroup + 1);
    }
  }
}

extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
attention_query_gradient(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,
                       Segments segments, const __grid_constant__ TensorMap dO, Statistics statistics, const __grid_constant__ TensorMap dq,
                       int rows, int heads, int share, int heads_at_once, float scale, float soft_cap) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ u64 barriers[1 + 2 * KEY_STAGES + 2 * VALUE_STAGES];
  const u32 query_tile = aligned_shared(shared), gradient_tile = query_tile + tile_bytes(STILL), key_tiles = gradient_tile + tile_bytes(STILL);
  const u32 value_tiles = key_tiles + KEY_STAGES * tile_bytes(MOVING_KEYS);
  const u32 still_full = shared_address(barriers), keys_full = still_full + 8, keys_empty = keys_full + 8 * KEY_STAGES;
  const u32 values_full = keys_empty + 8 * KEY_STAGES, values_empty = values_full + 8 * VALUE_STAGES;

  const int tiles = (rows + STILL - 1) / STILL;
  const TileOfHead at = tile_of_head(blockIdx.x, tiles, heads, heads_at_once);
  const int head = at.head, first = (tiles - 1 - at.tile) * STILL;  // the longest first
  const int last = least(first + STILL, rows) - 1, end = segments.end();
  const int begin = segments.lowest_key(first) / MOVING_KEYS;
  const int blocks = first < end ? (least(last + 1, end) + MOVING_KEYS - 1) / MOVING_KEYS - begin : 0;

  if (threadIdx.x == 0) {
    init_barrier(still_full, 1);
    for (int i = 0; i < KEY_STAGES; i++) init_barrier(keys_full + 8 * i, 1), init_barrier(keys_empty + 8 * i, GROUPS * 4);
    for (int i = 0; i < VALUE_STAGES; i++) init_barrier(values_full + 8 * i, 1), init_barrier(values_empty + 8 * i, GROUPS * 4);
    fence_barriers();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0 && blocks > 0) {
      expect_bytes(still_full, 2 * tile_bytes(STILL));
      load_tiles<STILL, 64>(query_tile, q, still_full, head, first);
      load_tiles<STILL, 64>(gradient_tile, dO, still_full, head, first);
      Ring<KEY_STAGES> keys;
      Ring<VALUE_STAGES> values;
      for (int block = blocks - 1; block >= 0; block--, keys.next(), values.next()) {
        const int key = (begin + block) * MOVING_KEYS;
        await_barrier(keys.of(keys_empty), keys.phase ^ 1);
        expect_bytes(keys.of(keys_full), tile_bytes(MOVING_KEYS));
        load_tiles<MOVING_KEYS, MOVING_KEYS>(key_tiles + keys.at * tile_bytes(MOVING_KEYS), k, keys.of(keys_full), head / share, key);
        await_barrier(values.of(values_empty), values.phase ^ 1);
        expect_bytes(values.of(values_full), tile_bytes(MOVING_KEYS));
        load_tiles<MOVING_KEYS, MOVING_KEYS>(value_tiles + values.at * tile_bytes(MOVING_KEYS), v, values.of(values_full), head / share, key);
      }
    }
  } else {
    take_registers<240>();
    const int warpgroup = threadIdx.x / 128 - 1, warp = (threadIdx.x >> 5) & 3, lane = threadIdx.x & 31;
    const Scoring scoring(scale, soft_cap);
    int low[2], high[2];
    float lse[2], delta[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      high[i] = first + warpgroup * 64 + warp * 16 + tile_row() + 8 * i;
      low[i] = high[i] < rows ? segments.lowest_key(high[i]) : high[i] + 1;
      lse[i] = statistics.lse[head * statistics.rows_padded + high[i]];
      delta[i] = statistics.delta[head * statistics.rows_padded + high[i]];
    }
    const int last_low = segments.lowest_key(last);
    const u32 queries = query_tile + warpgroup * 64 * 128, gradients = gradient_tile + warpgroup * 64 * 128;
    float sums[PADDED_DIM / 2], scores[MOVING_KEYS / 2], products[MOVING_KEYS / 2], weight;
    u32 slopes[MOVING_KEYS / 4];
#pragma unroll
    for (int i = 0; i < PADDED_DIM / 2; i++) sums[i] = 0;
    pin(sums);
    Ring<KEY_STAGES> keys;
    Ring<VALUE_STAGES> values;
    const auto step = [&](int block, bool is_last) {
      const int key = (begin + block) * MOVING_KEYS;
      const u32 key_tile = key_tiles + keys.at * tile_bytes(MOVING_KEYS), key_done = keys.of(keys_empty);
      await_barrier(values.of(values_full), values.phase);
      score_tiles<STILL, MOVING_KEYS>(products, gradients, value_tiles + values.at * tile_bytes(MOVING_KEYS));
      if (key + MOVING_KEYS - 1 > first || key < last_low) mask_tile(scores, key + tile_column(), low, high);
#pragma unroll
      for (int i = 0; i < MOVING_KEYS / 2; i++) scores[i] = weight_of(scores[i], lse[(i >> 1) & 1], scoring, weight);
      await_products<0>();
      pin(products);
      if (lane == 0) arrive(values.of(values_empty));
      values.next();
#pragma unroll
      for (int i = 0; i < MOVING_KEYS / 2; i++) scores[i] *= products[i] - delta[(i >> 1) & 1];
      pack_tile(scores, slopes);
      add_tiles<MOVING_KEYS>(sums, slopes, key_tile);
      keys.next();
      if (!is_last) {
        await_barrier(keys.of(keys_full), keys.phase);
        score_tiles<STILL, MOVING_KEYS>(scores, queries, key_tiles + keys.at * tile_bytes(MOVING_KEYS));
      }
      await_products<0>();
      pin(scores);
      pin(sums);
      if (lane == 0) arrive(key_done);
    };
    if (blocks > 0) {
      await_barrier(still_full, 0);
      await_barrier(keys.of(keys_full), keys.phase);
      score_tiles<STILL, MOVING_KEYS>(scores, queries, key_tiles);
      await_products<0>();
      pin(scores);
      for (int block = blocks - 1; block > 0; block--) step(block, false);
      step(0, true);
    }
    const float scales[2] = {scale, scale};
    store_tiles<STILL>(sums, queries, dq, head, first + warpgroup * 64, 0, scales, warpgroup + 1);
  }
}

#endif
#endif
