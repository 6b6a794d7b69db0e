// A frozen 4-bit weight in device memory, as the host lays it out (quantization.ts).

struct FourBit {
  const u8 *codes;        // two a byte, the first in the high nibble
  const u8 *scale_codes;  // double quantisation: codes of the blocks' scales
  const float *absmax;    // scales of blocks of 64; double quantisation: of 256 such scales
  const float *map;       // what scale codes mean
  float offset;
  float book[16];  // what codes mean
};

/** absmax of a block of 64, rounded after the product and after the sum: the order of bitsandbytes. */
template <bool DOUBLE_QUANTISED>
__device__ __forceinline__ float block_scale(const FourBit &weight, u32 block) {
  if (!DOUBLE_QUANTISED) return weight.absmax[block];
  return __fadd_rn(__fmul_rn(weight.map[weight.scale_codes[block]], weight.absmax[block >> 8]), weight.offset);
}
