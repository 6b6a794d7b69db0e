// Head and loss in chunks of supervised rows: gather x, z = x·Wᵀ (product core), softmax and loss per row, then
// dx = p·W (product core). Rows without a target cost nothing but their zeros. Scratch holds one chunk: x, z, p and dx.
// W must move twice per chunk; z once each way, from L3 or memory.
#include "short.h"

namespace qdl {
namespace QDL_ISA {

/** max, and then Σ e^(z − max) with each e^(z − max) left in z's place. */
static double exponentials(float* z, int64_t n, float& largest) {
  vf best = splat(-INFINITY);
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) best = maximum(load<vf>(z + j), best);
  largest = maximum(best);
  for (; j < n; j++) largest = z[j] > largest ? z[j] : largest;
  double total = 0;
  const vf shift = splat(largest);
  for (int64_t run = 0; run < n; run += RUN) {
    const int64_t end = least(n, run + RUN);
    vf sums = {};
    for (j = run; j + LANES <= end; j += LANES) {
      const vf e = exponential(load<vf>(z + j) - shift);
      store(z + j, e);
      sums += e;
    }
    for (; j < end; j++) {
      z[j] = exponential(splat(z[j] - largest))[0];
      sums[0] += z[j];
    }
    total += sum(sums);
  }
  return total;
}

template <class C>
static void crossEntropy(Context& context, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         const Tensor& tokenWeights, const Tensor& loss, const Tensor& dx, int64_t chunk, uint8_t* scratch) {
  typedef typename C::E E;
  const int64_t vocabulary = weight.rows;
  const DType dtype = C::PAIR == 2 ? BF16 : F32;
  const int64_t pitch = roundUp(vocabulary, 16), pitchX = roundUp(x.cols, 16);
  float* logits = reinterpret_cast<float*>(scratch);
  float* gradients = logits + chunk * pitch;
  E* inputs = reinterpret_cast<E*>(gradients + (dx.data ? chunk * pitchX : 0));
  E* weighted = inputs + chunk * pitchX;
  int32_t* rows = reinterpret_cast<int32_t*>(weighted + (dx.data && C::PAIR == 2 ? chunk * pitch : 0));
  if (C::PAIR == 1) weighted = reinterpret_cast<E*>(logits);

  int64_t supervised = 0;
  for (int64_t n = 0; n < x.rows; n++) {
    const int64_t target = *at<int32_t>(targets, n);
    if (target >= 0 && target < vocabulary) {
      rows[supervised++] = static_cast<int32_t>(n);
      continue;
    }
    *at<float>(loss, n) = 0;
    if (dx.data) zeroRow(dx, n, 0, dx.cols);
  }
  for (int64_t first = 0; first < supervised; first += chunk) {
    const int64_t count = least(chunk, supervised - first);
    const int32_t* picked = rows + first;
    const Tensor z = {reinterpret_cast<uint8_t*>(logits), count, vocabulary, pitch, F32};
    const Tensor p = {reinterpret_cast<uint8_t*>(weighted), count, vocabulary, pitch, dtype};
    const Tensor input = {reinterpret_cast<uint8_t*>(inputs), count, x.cols, pitchX, dtype};
    const Tensor gradient = {reinterpret_cast<uint8_t*>(gradients), count, x.cols, pitchX, F32};
    eachRow(context, count, x.cols, [&](int64_t i) {
      float buffer[RUN];
      for (int64_t col = 0; col < x.cols; col += RUN) {
        const int64_t n = least(RUN, x.cols - col);
        const float* values = read(x, picked[i], col, n, buffer);
        if constexpr (C::PAIR == 2)
          narrow(values, n, at<E>(input, i, col));
        else
          memcpy(at<E>(input, i, col), values, n * 4);
      }
    });
    Product head = productInto(z);
    addBase(head, input, sourceOf(weight, false), false, x.cols);
    product<C>(context, &head, 1, 0, count, {});
    eachRow(context, count, 4 * vocabulary, [&](int64_t i) {
      float* row = at<float>(z, i);
      const int64_t target = *at<int32_t>(targets, picked[i]);
      const float wanted = row[target];
      float largest;
      const double total = exponentials(row, vocabulary, largest);
      *at<float>(loss, picked[i]) = static_cast<float>(std::log(total) + (static_cast<double>(largest) - wanted));
      if (!dx.data) return;
      const float factor = *at<float>(tokenWeights, picked[i]);
      const float share = static_cast<float>(factor / total);
      for (int64_t col = 0; col < vocabulary; col += RUN) {
        const int64_t n = least(RUN, vocabulary - col);
        for (int64_t j = col; j < col + n; j++) row[j] *= share;
        if (target >= col && target < col + n) row[target] -= factor;
        if constexpr (C::PAIR == 2) narrow(row + col, n, at<E>(p, i, col));
      }
    });
    if (!dx.data) continue;
    Product back = productInto(gradient);
    addBase(back, p, sourceOf(weight, false), true, vocabulary);
    multiply<C>(context, &back, 1, 0, count, {});
    eachRow(context, count, x.cols, [&](int64_t i) {
      if (dx.dtype == BF16)
        narrow(at<float>(gradient, i), dx.cols, at<uint16_t>(dx, picked[i]));
      else
        memcpy(at<float>(dx, picked[i]), at<float>(gradient, i), dx.cols * 4);
    });
  }
}

static void linearCrossEntropy(Context& context, const double* words, uint8_t* scratch) {
  Args args(words);
  const Tensor x = args.tensor(), weight = args.tensor(), targets = args.tensor(), tokenWeights = args.tensor();
  const Tensor loss = args.tensor(), dx = args.tensor();
  const int64_t chunk = args.integer();  // rows of a chunk, as the scratch was sized
  withCompute(commonDtype(x, weight), [&](auto compute) {
    crossEntropy<decltype(compute)>(context, x, weight, targets, tokenWeights, loss, dx, chunk, scratch);
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
