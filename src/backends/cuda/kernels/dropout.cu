// y = x⊙keep / (1 − p), the mask by Philox4x32-10 as in random/philox.ts: word 4·⌈K/4⌉·position + column of row `sample`.

__device__ __forceinline__ uint4 philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u32 high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
    const u32 high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

extern "C" __global__ void dropout(const TYPE *x, i64 stride_x, TYPE *y, i64 stride_y, const int *rows_of, i64 stride_rows,
                                   u32 rows, u32 packs, u32 blocks_per_row, u64 threshold, float scale,
                                   u32 seed_low, u32 seed_high, u32 hash_low, u32 hash_high) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u32 sample = rows_of[at.row * stride_rows], position = rows_of[at.row * stride_rows + 1];
  const u32 col = at.pack * WIDTH;
  float v[WIDTH];
  load(v, x + at.row * stride_x + col);
  uint4 words;
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    if (i % 4 == 0) words = philox(blocks_per_row * position + (col + i) / 4, sample, hash_low, hash_high, seed_low, seed_high);
    const u32 lane = (col + i) % 4;
    const u32 word = lane == 0 ? words.x : lane == 1 ? words.y : lane == 2 ? words.z : words.w;
    v[i] = word < threshold ? 0.0f : v[i] * scale;
  }
  store(y + at.row * stride_y + col, v);
}
