// Head and loss in chunks of supervised rows. Logits never exist: as a tile of x·Wᵀ is finished (product core), an item
// leaves e^(z − m) for the largest logit m of that row in its 64 columns (f32 or bf16), with m and the sum beside it. Then
// a row's parts are put together: loss, and p = softmax − onehot in place of e; then dx = p·W (product core). Rows without
// a target cost nothing but their zeros. W must move twice per chunk, e and p once each way, from L3 or memory.
#include "short.h"

namespace qdl {
namespace QDL_ISA {

/** One chunk of the loss in the scratch. */
template <class E>
struct Chunk {
  Tensor inputs;     // [rows, C] of E: the supervised rows of x
  Tensor weighted;   // [rows, V] of E: e^(z − m), then the gradient of the logits; not there without dx
  Tensor gradients;  // f32 [rows, C]; not there without dx
  float* largest;    // [rows, parts]
  float* totals;     // [rows, parts]
  float* wanted;     // [rows]: the target's logit
  const int32_t* picked;
  float cap;  // of the logits; 0: none
};

/** ∂z/∂(x·w) of capped logits z. */
QDL_INLINE vf capSlope(vf z, float cap) {
  const vf share = z * splat(1 / cap);
  return splat(1) - share * share;
}

/** Ends a row of a strip of logits. Every strip is one part, whatever the width of a register tile. */
template <class E>
struct SoftmaxPart {
  const Chunk<E>& chunk;
  const Tensor& targets;
  int64_t parts;
  const Strip& strip;

  QDL_INLINE_MEMBER void ahead(int64_t row, int rows) const {
    if (chunk.weighted.data) askToWrite(chunk.weighted, row, rows, strip.col, strip.cols);
  }
  QDL_INLINE_MEMBER void operator()(int64_t row, const float* logits) const {
    const int64_t part = row * parts + strip.col / TILE_COLS;
    const int64_t target = *at<int32_t>(targets, chunk.picked[row]) - strip.col;
    vf z[TILE_VECTORS], best = splat(-INFINITY), total = {};
    for (int j = 0; j < strip.vectors; j++) {
      z[j] = load<vf>(logits + j * LANES);
      if (chunk.cap != 0) z[j] = splat(chunk.cap) * hyperbolicTangent(z[j] * splat(1 / chunk.cap));
      if (target >= j * LANES && target < least(strip.cols, (j + 1) * LANES)) chunk.wanted[row] = z[j][target - j * LANES];
      if (strip.cols < (j + 1) * LANES) z[j] = below(strip.cols - j * LANES, z[j], splat(-INFINITY));
      best = maximum(z[j], best);
    }
    const float largest = maximum(best);
    alignas(64) float e[TILE_COLS];
    for (int j = 0; j < strip.vectors; j++) {
      const vf value = exponential(z[j] - splat(largest));
      total += value;
      store(e + j * LANES, chunk.cap == 0 ? value : value * capSlope(below(strip.cols - j * LANES, z[j], vf{}), chunk.cap));
    }
    chunk.largest[part] = largest;
    chunk.totals[part] = sum(total);
    if (!chunk.weighted.data) return;
    E* out = at<E>(chunk.weighted, row, strip.col);
    if constexpr (sizeof(E) == 2)
      rounded(e, strip.cols, out);
    else
      copyRun(e, strip.cols, out);
  }
};

/** Loss of a row from its parts; with dx, the gradient of its logits in place of e. */
template <class E>
static void finishLoss(const Chunk<E>& chunk, int64_t row, int64_t parts, int64_t label, float factor, float& loss) {
  float* largest = chunk.largest + row * parts;
  const float* totals = chunk.totals + row * parts;
  float best = -INFINITY;
  for (int64_t part = 0; part < parts; part++) best = largest[part] > best ? largest[part] : best;
  double total = 0;
  for (int64_t part = 0; part < parts; part++) {
    largest[part] = exponential(splat(largest[part] - best))[0];
    total += static_cast<double>(totals[part]) * largest[part];
  }
  loss = static_cast<float>(std::log(total) + (static_cast<double>(best) - chunk.wanted[row]));
  if (!chunk.weighted.data) return;
  const float share = static_cast<float>(factor / total);
  // e is multiplied by the slope of its logit already.
  const float pull = chunk.cap == 0 ? factor : factor * capSlope(splat(chunk.wanted[row]), chunk.cap)[0];
  for (int64_t part = 0; part < parts; part++) {
    const int64_t col = part * TILE_COLS, n = least(TILE_COLS, chunk.weighted.cols - col);
    float buffer[TILE_COLS] = {};
    const float* e = read(chunk.weighted, row, col, n, buffer);
    float* out = target(chunk.weighted, row, col, buffer);
    for (int64_t j = 0; j < n; j++) out[j] = e[j] * (share * largest[part]);
    if (label >= col && label < col + n) out[label - col] -= pull;
    commit(chunk.weighted, row, col, n, out);
  }
}

template <class C>
static void crossEntropy(Context& context, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         const Tensor& tokenWeights, const Tensor& loss, const Tensor& dx, int64_t rows, float cap,
                         uint8_t* scratch) {
  typedef typename C::E E;
  const DType dtype = sizeof(E) == 2 ? BF16 : F32;
  const int64_t vocabulary = weight.rows, width = x.cols, parts = ceilDiv(vocabulary, TILE_COLS);
  const int64_t pitch = roundUp(vocabulary, 16), pitchX = roundUp(width, 16);
  // The scratch, in the order and sizes of kernels.ts.
  Chunk<E> chunk;
  chunk.cap = cap;
  auto take = [&](int64_t bytes) {
    uint8_t* piece = scratch;
    scratch += roundUp(bytes, 64);
    return piece;
  };
  int32_t* supervised = reinterpret_cast<int32_t*>(take(x.rows * 4));
  chunk.inputs = {take(rows * pitchX * sizeof(E)), rows, width, pitchX, dtype};
  chunk.wanted = reinterpret_cast<float*>(take(rows * 4));
  chunk.largest = reinterpret_cast<float*>(take(rows * parts * 4));
  chunk.totals = reinterpret_cast<float*>(take(rows * parts * 4));
  chunk.weighted = {dx.data ? take(rows * pitch * sizeof(E)) : nullptr, rows, vocabulary, pitch, dtype};
  chunk.gradients = {dx.data ? take(rows * pitchX * 4) : nullptr, rows, width, pitchX, F32};

  int64_t total = 0;
  for (int64_t n = 0; n < x.rows; n++) {
    const int64_t target = *at<int32_t>(targets, n);
    if (target >= 0 && target < vocabulary) {
      supervised[total++] = static_cast<int32_t>(n);
      continue;
    }
    *at<float>(loss, n) = 0;
    if (dx.data) zeroRow(dx, n, 0, dx.cols);
  }
  const Source head = sourceOf(weight, false);
  for (int64_t first = 0; first < total; first += rows) {
    const int64_t count = least(rows, total - first);
    const int32_t* picked = chunk.picked = supervised + first;
    eachRow(context, count, width, [&](int64_t i) {
      for (int64_t col = 0; col < width; col += RUN) {
        float buffer[RUN];
        const int64_t n = least(RUN, width - col);
        const float* values = read(x, picked[i], col, n, buffer);
        if constexpr (sizeof(E) == 2)
          narrow(values, n, at<E>(chunk.inputs, i, col));
        else
          copyRun(values, n, at<E>(chunk.inputs, i, col));
      }
    });
    Product logits = {};
    logits.out.cols = vocabulary;
    addBase(logits, chunk.inputs, head, false, width);
    multiplyThen<C>(context, &logits, 1, 0, count, {}, [&](const Product&, const Strip& strip) {
      return SoftmaxPart<E>{chunk, targets, parts, strip};
    });
    eachRow(context, count, 2 * vocabulary, [&](int64_t i) {
      finishLoss(chunk, i, parts, *at<int32_t>(targets, picked[i]), *at<float>(tokenWeights, picked[i]), *at<float>(loss, picked[i]));
    });
    if (!dx.data) continue;
    Product back = productInto(chunk.gradients);
    addBase(back, chunk.weighted, head, true, vocabulary);
    multiply<C>(context, &back, 1, 0, count, {});
    eachRow(context, count, width, [&](int64_t i) {
      const float* gradient = at<float>(chunk.gradients, i);
      if (dx.dtype == BF16)
        rounded(gradient, width, at<uint16_t>(dx, picked[i]));
      else
        copyRun(gradient, width, at<float>(dx, picked[i]));
    });
  }
}

static void linearCrossEntropy(Context& context, const double* words, uint8_t* scratch) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), targets = args.tensor(), tokenWeights = args.tensor();
  const Tensor loss = args.tensor(), dx = args.tensor();
  const int64_t rows = args.integer();  // of a chunk, as the scratch was sized
  const float cap = static_cast<float>(args.number());
  withCompute(commonDtype(x, weight), [&](auto compute) {
    crossEntropy<decltype(compute)>(context, x, weight, targets, tokenWeights, loss, dx, rows, cap, scratch);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
