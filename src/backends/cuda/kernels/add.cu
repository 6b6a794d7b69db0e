// y = a + b; y may be a or b.

extern "C" __global__ void add(const TYPE *a, i64 stride_a, const TYPE *b, i64 stride_b, TYPE *y, i64 stride_y, u32 rows, u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u64 col = (u64)at.pack * WIDTH;
  float left[WIDTH], right[WIDTH];
  load(left, a + at.row * stride_a + col);
  load(right, b + at.row * stride_b + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) left[i] += right[i];
  store(y + at.row * stride_y + col, left);
}
