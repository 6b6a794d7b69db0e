// y = x rounded to y's type: X_TYPE to Y_TYPE.

extern "C" __global__ void cast(const X_TYPE *x, i64 stride_x, Y_TYPE *y, i64 stride_y, u32 rows, u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  float v[WIDTH];
  load(v, x + at.row * stride_x + (u64)at.pack * WIDTH);
  store(y + at.row * stride_y + (u64)at.pack * WIDTH, v);
}
