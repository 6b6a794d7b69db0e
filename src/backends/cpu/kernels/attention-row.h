// Softmax attention of one query row over the keys that it sees (decoding): the heads that share keys and values together.
// Keys and values are used where they lie, each read from memory once for all these heads; scores are taken block by block
// as in attention-tile.h, and stay in f32.
#pragma once
#include "attention-tile.h"
#include "registers.h"

namespace qdl {
namespace QDL_ISA {

/** Keys of a block: its part of the values fits L2 beside everything else. */
constexpr int64_t ROW_KEYS = 256;
/** Heads whose sums share the registers. */
constexpr int ROW_HEADS = LANES == 16 ? 4 : 2;
/** Vectors of a value row whose sums share the registers. */
constexpr int ROW_VECTORS = LANES == 16 ? 4 : 2;
/** Keys between the one that is asked for and the one that is used. */
constexpr int64_t KEYS_AHEAD = 16;

/** COUNT values of a row from `col` on, zeros behind the row's end. */
template <class V, int COUNT, class Stored>
QDL_INLINE auto partOfRow(const Stored* row, int64_t col, int64_t cols) {
  if (col + COUNT <= cols) return V::at(row + col);
  Stored last[COUNT] = {};
  for (int64_t i = col; i < cols; i++) last[i - col] = row[i];
  return V::at(last);
}

/** scores[h·ROW_KEYS + j] = q_h · (key j), for H heads; rows of q are padded with zeros to whole vectors. */
template <class C, class Stored, int H>
static void rowScores(const typename C::E* q, int64_t pitch, const Tensor& k, int64_t keys, Ahead& ahead, float* scores) {
  typedef Vectors<C> V;
  for (int64_t j = 0; j < keys; j++) {
    if (j + KEYS_AHEAD < keys) ask(k, j + KEYS_AHEAD, 1, 0, k.cols);
    ahead.step();
    const Stored* row = at<Stored>(k, j);
    vf sums[H] = {};
    for (int64_t col = 0; col < k.cols; col += V::COUNT) {
      const auto key = partOfRow<V, V::COUNT>(row, col, k.cols);
#pragma GCC unroll 4
      for (int h = 0; h < H; h++) sums[h] = V::add(sums[h], key, V::at(q + h * pitch + col));
    }
#pragma GCC unroll 4
    for (int h = 0; h < H; h++) scores[h * ROW_KEYS + j] = sum(sums[h]);
  }
}

/** sums[h·pitch + col…] += Σ_j weights[h·ROW_KEYS + j]·(value j)[col…], for H heads and NV vectors of columns. */
template <class Stored, int H, int NV>
QDL_INLINE void rowValuesPart(const float* weights, const Tensor& v, int64_t keys, int64_t col, float* sums, int64_t pitch, Ahead& ahead) {
  vf all[H][NV];
#pragma GCC unroll 4
  for (int h = 0; h < H; h++)
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) all[h][n] = load<vf>(sums + h * pitch + col + n * LANES);
  for (int64_t j = 0; j < keys; j++) {
    ahead.step();
    vf value[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) value[n] = partOfRow<Vectors<ComputeF32>, LANES>(at<Stored>(v, j), col + n * LANES, v.cols);
#pragma GCC unroll 4
    for (int h = 0; h < H; h++) {
      const vf weight = splat(weights[h * ROW_KEYS + j]);
#pragma GCC unroll 4
      for (int n = 0; n < NV; n++) all[h][n] = fma(weight, value[n], all[h][n]);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; h++)
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) store(sums + h * pitch + col + n * LANES, all[h][n]);
}
template <class Stored, int H>
static void rowValues(const float* weights, const Tensor& v, int64_t keys, float* sums, int64_t pitch, Ahead& ahead) {
  int64_t col = 0;
  for (; col + ROW_VECTORS * LANES <= v.cols; col += ROW_VECTORS * LANES)
    rowValuesPart<Stored, H, ROW_VECTORS>(weights, v, keys, col, sums, pitch, ahead);
  for (; col < v.cols; col += LANES) rowValuesPart<Stored, H, 1>(weights, v, keys, col, sums, pitch, ahead);
}

/** Scores of one head and block in place: e^(s − largest), zeros behind the last key. Returns how older sums shrink. */
QDL_INLINE float rowSoftmax(float* scores, int64_t keys, vf factor, float& largest, vf& total) {
  vf best = splat(-INFINITY);
  for (int64_t j = 0; j < keys; j += LANES) {
    const vf s = below(keys - j, load<vf>(scores + j) * factor, splat(-INFINITY));
    store(scores + j, s);
    best = maximum(s, best);
  }
  const float before = largest, now = maximum(best);
  largest = now > before ? now : before;
  const float shrink = exponential(splat(before - largest))[0];
  total *= splat(shrink);
  for (int64_t j = 0; j < keys; j += LANES) {
    const vf e = exponential(load<vf>(scores + j) - splat(largest));
    store(scores + j, e);
    total += e;
  }
  return shrink;
}

/** Calls function(Count<H>) for groups of heads: function(count, first head). */
template <class Function>
QDL_INLINE void eachHeads(int64_t heads, Function function) {
  int64_t h = 0;
  for (; h + ROW_HEADS <= heads; h += ROW_HEADS) function(Count<ROW_HEADS>{}, h);
  switch (heads - h) {
    case 3: return function(Count<ROW_HEADS - 1>{}, h);
    case 2: return function(Count<2>{}, h);
    case 1: return function(Count<1>{}, h);
  }
}

/** `tile.q` holds one head a row; all of `tile.k` is seen. `Key` and `Value` are how they are stored. */
template <class C, class Key, class Value>
static void attentionRow(uint8_t* workspace, const AttentionTile& tile, const Scoring& scoring) {
  typedef typename C::E E;
  Arena arena(workspace);
  const int64_t heads = tile.q.rows, dim = tile.q.cols, pitchQ = roundUp(dim, Vectors<C>::COUNT), pitch = roundUp(dim, LANES);
  E* q = arena.take<E>(heads * pitchQ);
  float* scores = arena.take<float>(heads * ROW_KEYS);
  float* sums = arena.take<float>(heads * pitch);
  float largest[QUERIES];
  vf totals[QUERIES];
  const Source queries = sourceOf(tile.q, false);
  for (int64_t h = 0; h < heads; h++) {
    run(queries, h, 0, static_cast<int>(dim), q + h * pitchQ);
    for (int64_t col = dim; col < pitchQ; col++) q[h * pitchQ + col] = 0;
    largest[h] = -FLT_MAX, totals[h] = vf{};
  }
  memset(sums, 0, heads * pitch * 4);
  for (int64_t key = 0; key < tile.k.rows; key += ROW_KEYS) {
    const int64_t keys = least(ROW_KEYS, tile.k.rows - key), next = least(ROW_KEYS, tile.k.rows - key - keys);
    const Tensor k = window(tile.k, key, keys, 0, dim), v = window(tile.v, key, keys, 0, dim);
    Ahead values(v, keys, 0, dim, keys), nextKeys(window(tile.k, key + keys, next, 0, dim), next, 0, dim, keys);
    eachHeads(heads, [&](auto count, int64_t h) {
      rowScores<C, Key, decltype(count)::value>(q + h * pitchQ, pitchQ, k, keys, values, scores + h * ROW_KEYS);
    });
    const vf factor = splat(scoring.factor(scores, heads, keys, ROW_KEYS));
    for (int64_t h = 0; h < heads; h++) {
      const float shrink = rowSoftmax(scores + h * ROW_KEYS, keys, factor, largest[h], totals[h]);
      if (key == 0) continue;
      for (int64_t j = 0; j < pitch; j += LANES) store(sums + h * pitch + j, load<vf>(sums + h * pitch + j) * splat(shrink));
    }
    eachHeads(heads, [&](auto count, int64_t h) {
      rowValues<Value, decltype(count)::value>(scores + h * ROW_KEYS, v, keys, sums + h * pitch, pitch, nextKeys);
    });
  }
  for (int64_t h = 0; h < heads; h++) writeRow(tile.o, h, 0, dim, sums + h * pitch, 1 / sum(totals[h]));
}

template <class C, class Key>
static void attentionRow(uint8_t* workspace, const AttentionTile& tile, const Scoring& scoring) {
  if (tile.v.dtype == BF16)
    attentionRow<C, Key, uint16_t>(workspace, tile, scoring);
  else
    attentionRow<C, Key, float>(workspace, tile, scoring);
}
/** bf16 dot products take both sides in bf16. */
template <class C>
static void attentionRow(uint8_t* workspace, const AttentionTile& tile, const Scoring& scoring) {
  if (tile.k.dtype == BF16)
    attentionRow<C, uint16_t>(workspace, tile, scoring);
  else
    attentionRow<ComputeF32, float>(workspace, tile, scoring);
}

}  // namespace QDL_ISA
}  // namespace qdl
