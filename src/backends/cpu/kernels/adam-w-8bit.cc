// AdamW with moments in 8 bits, on rows from..to−1 of every tensor of a list. An item owns whole blocks of 256 columns of
// a row: decodes both moments into L1, updates, and codes them again. Per weight 4 bytes of codes are moved in place of 16.
#include "adam-w.h"
#include "blocks.h"

namespace qdl {
namespace QDL_ISA {

constexpr int MOMENT_BLOCK = 256;
static_assert(RUN % MOMENT_BLOCK == 0, "a run holds whole blocks");

/** A map of 256 levels with the thresholds between them. */
struct MomentMap {
  const float* levels;
  float thresholds[255];
};

QDL_INLINE void readMap(const Tensor& map, MomentMap* out) {
  out->levels = at<float>(map, 0);
  for (int i = 0; i < 255; i++) out->thresholds[i] = (out->levels[i] + out->levels[i + 1]) / 2;
}

QDL_INLINE void decodeMoment(const MomentMap& map, const uint8_t* codes, float absmax, int64_t n, float* out) {
  for (int64_t j = 0; j < n; j++) out[j] = map.levels[codes[j]] * absmax;
}

QDL_INLINE void encodeMoment(const MomentMap& map, const float* values, int64_t n, uint8_t* codes, float* absmax) {
  *absmax = largestMagnitude(values, n);
  const float inverse = reciprocalOf(*absmax);
  for (int64_t j = 0; j < n; j++)
    codes[j] = static_cast<uint8_t>(nearestLevel<255>(map.thresholds, values[j] * inverse));
}

static void adamW8bit(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensors params = args.tensors(), gradients = args.tensors();
  const Tensors mCodes = args.tensors(), mAbsmax = args.tensors(), vCodes = args.tensors(), vAbsmax = args.tensors();
  const Tensors copies = args.tensors();
  const Tensor mLevels = args.tensor(), vLevels = args.tensor(), counts = args.tensor(), squares = args.tensor();
  const AdamWSettings settings = readAdamWSettings(args, params.count);
  const float scale = clipFactor(*at<float>(squares, 0), settings.maxNorm);
  if (scale != scale) return;
  MomentMap mMap, vMap;
  readMap(mLevels, &mMap);
  readMap(vLevels, &vMap);
  for (int64_t t = 0; t < params.count; t++) {
    const Tensor param = params[t], gradient = gradients[t], copy = copies[t];
    const Tensor mCode = mCodes[t], mMost = mAbsmax[t], vCode = vCodes[t], vMost = vAbsmax[t];
    eachRun(context, settings.to - settings.from, param.cols, [&](int64_t offset, int64_t runCol, int64_t runLength) {
      const int64_t row = settings.from + offset;
      const RowUpdate update = rowUpdate(settings, scale, settings.learningRates[t], *at<int32_t>(counts, row));
      for (int64_t col = runCol; col < runCol + runLength; col += MOMENT_BLOCK) {
        const int64_t n = least(MOMENT_BLOCK, runCol + runLength - col), block = col / MOMENT_BLOCK;
        float *mScale = at<float>(mMost, row, block), *vScale = at<float>(vMost, row, block);
        uint8_t *mRow = at<uint8_t>(mCode, row, col), *vRow = at<uint8_t>(vCode, row, col);
        float first[MOMENT_BLOCK], second[MOMENT_BLOCK];
        decodeMoment(mMap, mRow, *mScale, n, first);
        decodeMoment(vMap, vRow, *vScale, n, second);
        float* p = at<float>(param, row, col);
        updateRun(update, n, at<float>(gradient, row, col), p, first, second);
        encodeMoment(mMap, first, n, mRow, mScale);
        encodeMoment(vMap, second, n, vRow, vScale);
        copyWeights(copy, row, col, n, p);
      }
    });
  }
}

}  // namespace QDL_ISA
}  // namespace qdl
