// Softmax attention of one query row (decoding), for up to QUERIES heads together. The keys that it sees are cut into parts,
// which lie in one piece in memory and may have a thread each; what they amount to is put together in their order. Keys and
// values are used where they lie. To read is most of the work: values are asked for while scores are computed, and the next
// keys meanwhile with the values.
#pragma once
#include "attention-tile.h"
#include "registers.h"

namespace qdl {
namespace QDL_ISA {

/** Heads whose sums share the registers. */
constexpr int ROW_HEADS = LANES == 16 ? 4 : 2;
/** Keys whose scores are summed up together. */
constexpr int ROW_KEYS = 4;
/** Vectors of sums of a head that share the registers, in pairs. */
constexpr int ROW_VECTORS = LANES == 16 ? 4 : 2;

/** Room for a row of one head: what is read or written as whole pairs of vectors. */
QDL_INLINE int64_t rowPitch(int64_t dim) { return roundUp(dim, 2 * LANES); }

/** What the keys of a part amount to, per head. */
struct RowPart {
  float* largest;  // [heads]: the largest score
  float* totals;   // [heads]: Σ e^(score − largest)
  float* sums;     // [heads, dim]: Σ e^(score − largest)·value

  /** Floats that it takes; as in kernels.ts. */
  static int64_t room(int64_t heads, int64_t dim) { return 2 * roundUp(heads, LANES) + heads * rowPitch(dim); }
  RowPart(float* at, int64_t heads) : largest(at), totals(at + roundUp(heads, LANES)), sums(totals + roundUp(heads, LANES)) {}
};

/** Heads of a row, and a part of the keys and values that they see. */
struct AttentionRow {
  Tensor q, o;    // [heads, dim]
  Tensor k, v;    // [keys, groups·dim]
  int64_t share;  // heads that share a group's keys and values
};

/** scores[h·KEYS + i] = q_h · (key j + i), for H heads and J keys. Rows are whole pairs of vectors. */
template <class C, class Stored, int H, int J>
QDL_INLINE void rowScoresPart(const typename C::E* q, int64_t pitch, const Tensor& k, int64_t j, float* scores) {
  typedef Vectors<C> V;
  vf sums[H * J] = {};
  for (int64_t col = 0; col < pitch; col += V::COUNT) {
    typename V::Value keys[J];
#pragma GCC unroll 4
    for (int i = 0; i < J; i++) keys[i] = V::at(at<Stored>(k, j + i, col));
#pragma GCC unroll 4
    for (int h = 0; h < H; h++) {
      const typename V::Value query = V::at(q + h * pitch + col);
#pragma GCC unroll 4
      for (int i = 0; i < J; i++) sums[h * J + i] = V::add(sums[h * J + i], keys[i], query);
    }
  }
  float all[H * J];
  sumsOf(sums, all);
#pragma GCC unroll 4
  for (int h = 0; h < H; h++) memcpy(scores + h * KEYS, all + h * J, J * sizeof *all);
}
template <class C, class Stored, int H>
static void rowScores(const typename C::E* q, int64_t pitch, const Tensor& k, Ahead& ahead, float* scores) {
  int64_t j = 0;
  for (; j + ROW_KEYS <= k.rows; j += ROW_KEYS) {
    ahead.step(ROW_KEYS);
    rowScoresPart<C, Stored, H, ROW_KEYS>(q, pitch, k, j, scores + j);
  }
  ahead.step(k.rows - j);
  for (; j < k.rows; j++) rowScoresPart<C, Stored, H, 1>(q, pitch, k, j, scores + j);
}

/**
 * sums[h·pitch + col…] += Σ_j weights[h·KEYS + j]·(value j)[col…], for H heads and NV vectors of columns. Dot products take
 * two keys at a time; behind an odd last one come zeros.
 */
template <class C, class Stored, int H, int NV>
QDL_INLINE void rowValuesPart(const typename C::E* weights, const Tensor& v, int64_t col, float* sums, int64_t pitch, Ahead& ahead) {
  typedef Vectors<C> V;
  alignas(64) static const Stored ZEROS[NV * LANES] = {};
  vf all[H][NV];
#pragma GCC unroll 4
  for (int h = 0; h < H; h++)
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) all[h][n] = load<vf>(sums + h * pitch + col + n * LANES);
  for (int64_t j = 0; j < v.rows; j += C::PAIR) {
    ahead.step(C::PAIR);
    typename V::Value values[NV];
    const Stored* row = at<Stored>(v, j, col);
    if constexpr (C::PAIR == 1) {
#pragma GCC unroll 4
      for (int n = 0; n < NV; n++) values[n] = V::at(row + n * LANES);
    } else {
      const Stored* odd = j + 1 < v.rows ? row + v.stride : ZEROS;
#pragma GCC unroll 4
      for (int n = 0; n < NV; n += 2) zip(V::at(row + n * LANES), V::at(odd + n * LANES), values[n], values[n + 1]);
    }
#pragma GCC unroll 4
    for (int h = 0; h < H; h++) {
      const auto weight = V::splat(weights + h * KEYS + j);
#pragma GCC unroll 4
      for (int n = 0; n < NV; n++) all[h][n] = V::add(all[h][n], values[n], weight);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; h++)
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) store(sums + h * pitch + col + n * LANES, all[h][n]);
}
template <class C, class Stored, int H>
static void rowValues(const typename C::E* weights, const Tensor& v, float* sums, int64_t pitch, Ahead& ahead) {
  int64_t col = 0;
  for (; col + ROW_VECTORS * LANES <= pitch; col += ROW_VECTORS * LANES)
    rowValuesPart<C, Stored, H, ROW_VECTORS>(weights, v, col, sums, pitch, ahead);
  if (ROW_VECTORS > 2 && col < pitch) rowValuesPart<C, Stored, H, 2>(weights, v, col, sums, pitch, ahead);
}

/** Calls function(Count<H>, first head, column of keys and values) for heads that share keys and values, a few at a time. */
template <class Function>
QDL_INLINE void eachHeads(const AttentionRow& row, Function function) {
  const int64_t together = least(row.share, row.q.rows);
  for (int64_t first = 0, col = 0; first < row.q.rows; first += together, col += row.q.cols) {
    int64_t h = first;
    for (; h + ROW_HEADS <= first + together; h += ROW_HEADS) function(Count<ROW_HEADS>{}, h, col);
    switch (first + together - h) {
      case 3: function(Count<ROW_HEADS - 1>{}, h, col); break;
      case 2: function(Count<2>{}, h, col); break;
      case 1: function(Count<1>{}, h, col); break;
    }
  }
}

/** Columns of keys or values as rows of whole pairs of vectors: where they lie, or copied with zeros behind. */
template <class Stored>
QDL_INLINE Tensor wholeRows(const Tensor& t, int64_t col, int64_t dim, Stored* buffer) {
  const Tensor rows = window(t, 0, t.rows, col, dim);
  const int64_t pitch = rowPitch(dim);
  if (dim == pitch) return rows;
  for (int64_t j = 0; j < t.rows; j++) {
    copyRun(at<Stored>(rows, j), dim, buffer + j * pitch);
    for (int64_t i = dim; i < pitch; i++) buffer[j * pitch + i] = 0;
  }
  return {reinterpret_cast<uint8_t*>(buffer), t.rows, pitch, pitch, t.dtype};
}

/** `next`: keys that this thread is likely to read next. `Key` and `Value` are how they are stored. */
template <class C, class Key, class Value>
static void attentionPart(Arena arena, const AttentionRow& row, const Tensor& next, const Scoring& scoring, const RowPart& out) {
  typedef typename C::E E;
  const int64_t heads = row.q.rows, dim = row.q.cols, pitch = rowPitch(dim), cols = row.k.cols;
  E* q = arena.take<E>(heads * pitch);
  Key* keyBuffer = arena.take<Key>(KEYS * pitch);
  Value* valueBuffer = arena.take<Value>(KEYS * pitch);
  RunningSoftmax<C> softmax(arena);
  const Source queries = sourceOf(row.q, false);
  for (int64_t h = 0; h < heads; h++) {
    run(queries, h, 0, static_cast<int>(dim), q + h * pitch);
    for (int64_t col = dim; col < pitch; col++) q[h * pitch + col] = 0;
  }
  softmax.start(heads);
  memset(out.sums, 0, heads * pitch * 4);
  int64_t passes = 0;
  eachHeads(row, [&](auto, int64_t, int64_t) { passes++; });
  for (int64_t key = 0; key < row.k.rows; key += KEYS) {
    const int64_t keys = least(KEYS, row.k.rows - key), rest = row.k.rows - key - keys;
    const Tensor k = window(row.k, key, keys, 0, cols), v = window(row.v, key, keys, 0, cols);
    const Tensor after = rest > 0 ? window(row.k, key + keys, rest, 0, cols) : next;
    Ahead values(v, keys, 0, cols, passes * keys);
    Ahead nextKeys(after, least(KEYS, after.rows), 0, after.cols, passes * keys);
    eachHeads(row, [&](auto count, int64_t h, int64_t col) {
      rowScores<C, Key, decltype(count)::value>(q + h * pitch, pitch, wholeRows(k, col, dim, keyBuffer), values,
                                                softmax.scores + h * KEYS);
    });
    softmax.block(scoring, heads, keys, keys, 0, [&](int64_t, int) { return Span{0, keys}; });
    if (key > 0) softmax.shrink(out.sums, heads, pitch);
    eachHeads(row, [&](auto count, int64_t h, int64_t col) {
      rowValues<C, Value, decltype(count)::value>(softmax.weights + h * KEYS, wholeRows(v, col, dim, valueBuffer),
                                                  out.sums + h * pitch, pitch, nextKeys);
    });
  }
  for (int64_t h = 0; h < heads; h++) out.largest[h] = softmax.largest[h], out.totals[h] = softmax.total(h);
}

/** Dot products of bf16 take all of their factors in bf16. */
template <class C>
static void attentionPart(Arena arena, const AttentionRow& row, const Tensor& next, const Scoring& scoring, const RowPart& out) {
  typedef void (*Part)(Arena, const AttentionRow&, const Tensor&, const Scoring&, const RowPart&);
  static const Part PARTS[2][2] = {
      {attentionPart<ComputeF32, float, float>, attentionPart<ComputeF32, float, uint16_t>},
      {attentionPart<ComputeF32, uint16_t, float>, attentionPart<C, uint16_t, uint16_t>},
  };
  PARTS[row.k.dtype == BF16][row.v.dtype == BF16](arena, row, next, scoring, out);
}

/** o of parts that lie `stride` floats apart, in this order; uses the first one for sums. */
static void joinParts(float* first, int64_t parts, int64_t stride, const Tensor& o) {
  const int64_t heads = o.rows, dim = o.cols, pitch = rowPitch(dim);
  const auto part = [&](int64_t p) { return RowPart(first + p * stride, heads); };
  const RowPart all = part(0);
  for (int64_t h = 0; h < heads; h += LANES) {
    vf largest = splat(-FLT_MAX), total = {};
    for (int64_t p = 0; p < parts; p++) largest = maximum(load<vf>(part(p).largest + h), largest);
    for (int64_t p = 0; p < parts; p++) {
      const vf factor = exponential(load<vf>(part(p).largest + h) - largest);
      total += load<vf>(part(p).totals + h) * factor;
      store(part(p).largest + h, factor);
    }
    store(all.totals + h, total);
  }
  for (int64_t h = 0; h < heads; h++) {
    for (int64_t j = 0; j < pitch; j += LANES) {
      vf sums = {};
      for (int64_t p = 0; p < parts; p++) sums = fma(splat(part(p).largest[h]), load<vf>(part(p).sums + h * pitch + j), sums);
      store(all.sums + h * pitch + j, sums);
    }
    writeRow(o, h, 0, dim, all.sums + h * pitch, 1 / all.totals[h]);
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
