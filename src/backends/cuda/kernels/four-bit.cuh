// A frozen 4-bit weight in device memory, as the host lays it out (quantization.ts).

struct FourBit {
  const u8 *codes;        // two a byte, the first in the high nibble
  const u8 *scale_codes;  // double quantisation: codes of the blocks' scales
  const float *absmax;    // scales of blocks of 64; double quantisation: of 256 such scales
  const float *map;       // what scale codes mean
  float offset;
  float book[16];  // what codes mean
};

/** What is stored of the scale of a block of 64. */
template <bool DOUBLE_QUANTISED>
struct StoredScale {
  u32 code;
  float absmax;

  __device__ __forceinline__ void read(const FourBit &weight, u32 block) {
    if (DOUBLE_QUANTISED) code = weight.scale_codes[block];
    absmax = weight.absmax[DOUBLE_QUANTISED ? block >> 8 : block];
  }
  /** The scale, rounded after the product and after the sum: the order of bitsandbytes. */
  __device__ __forceinline__ float value(const float *map, float offset) const {
    return DOUBLE_QUANTISED ? __fadd_rn(__fmul_rn(map[code], absmax), offset) : absmax;
  }
};
