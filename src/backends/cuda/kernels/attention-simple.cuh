// The plain path of the attention kernels: f32, and whatever the tiled paths cannot take (head dims that are not a multiple of
// 8, unaligned rows, scale ≤ 0). One warp for each row and head; its lanes take one key each for the scores, then one column each for
// the sums.

#define SLICES ((HEAD_DIM + 31) / 32)
#define EVERY_LANE 0xffffffffu

INLINE float warp_most(float x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, step));
  return x;
}

/** scale·x, capped if SOFT_CAP; `slope` is its derivative after x, without the factor scale. */
INLINE float score_of(float x, float scale, float soft_cap, float &slope) {
#if SOFT_CAP
  const float t = tanhf(scale * x / soft_cap);
  slope = 1 - t * t;
  return soft_cap * t;
#else
  slope = 1;
  return scale * x;
#endif
}

INLINE float dot_row(const float *a, const TYPE *b) {
  float sum = 0;
  for (int d = 0; d < HEAD_DIM; d++) sum += a[d] * to_float(b[d]);
  return sum;
}

/** One row of a head into shared memory as f32. */
INLINE void stage_row(float *staged, const TYPE *row, int lane) {
  for (int d = lane; d < HEAD_DIM; d += 32) staged[d] = to_float(row[d]);
}

/** A lane's columns lane, lane + 32, … of sums over rows. */
struct Sums {
  float of[SLICES] = {};
  INLINE void scale(float factor) {
#pragma unroll
    for (int i = 0; i < SLICES; i++) of[i] *= factor;
  }
  /** Adds the weight of each lane times row `first` + lane, for `count` lanes. */
  INLINE void add(float weight, int count, const TYPE *first, i64 stride, int lane) {
    for (int j = 0; j < count; j++) {
      const float w = __shfl_sync(EVERY_LANE, weight, j);
#pragma unroll
      for (int i = 0; i < SLICES; i++)
        if (lane + 32 * i < HEAD_DIM) of[i] += w * to_float(first[j * stride + lane + 32 * i]);
    }
  }
  INLINE void store(TYPE *row, float factor, int lane) const {
#pragma unroll
    for (int i = 0; i < SLICES; i++)
      if (lane + 32 * i < HEAD_DIM) row[lane + 32 * i] = from_float<TYPE>(of[i] * factor);
  }
};

/** Softmax attention of one staged query over keys low .. high: writes o and returns the log-sum-exp. */
INLINE float attend_row(const float *query, const TYPE *k, i64 stride_k, const TYPE *v, i64 stride_v, int low, int high,
                       float scale, float soft_cap, TYPE *o, int lane) {
  float largest = NEGATIVE_INFINITY, total = 0;
  Sums sums;
  for (int first = low; first <= high; first += 32) {
    const int key = first + lane;
    float slope, score = NEGATIVE_INFINITY;
    if (key <= high) score = score_of(dot_row(query, k + key * stride_k), scale, soft_cap, slope);
    const float top = fmaxf(largest, warp_most(score));
    const float rescale = expf(largest - top), weight = expf(score - top);
    total = total * rescale + warp_sum(weight);
    largest = top;
    sums.scale(rescale);
    sums.add(weight, least(32, high + 1 - first), v + first * stride_v, stride_v, lane);
  }
  sums.store(o, total > 0 ? 1 / total : 0, lane);
  return total > 0 ? largest + logf(total) : 0;
}
