// y_i = x_i·cos_i − x_{i+D/2}·sin_i, y_{i+D/2} = x_{i+D/2}·cos_i + x_i·sin_i in the first D columns of each head; sign −1 turns
// back. A thread takes a pack of the first half of D and its partner, so that y may be x, or a pack of the columns that pass.

extern "C" __global__ void rope(const TYPE *x, i64 stride_x, const float *cos_sin, i64 stride_cos_sin, TYPE *y, i64 stride_y,
                                u32 rows, u32 heads, u32 half_packs, u32 rest_packs, float sign) {
  const u32 head_packs = half_packs + rest_packs;
  const Place at = place(rows, heads * head_packs);
  if (!at.inside) return;
  const u32 head = at.pack / head_packs, pack = at.pack - head * head_packs, col = pack * WIDTH, half_dim = half_packs * WIDTH;
  const u64 first = (u64)head * (half_packs + head_packs) * WIDTH + col;
  float a[WIDTH], b[WIDTH], cosine[WIDTH], sine[WIDTH];
  if (pack >= half_packs) {
    load(a, x + at.row * stride_x + first + half_dim);
    store(y + at.row * stride_y + first + half_dim, a);
    return;
  }
  load(a, x + at.row * stride_x + first);
  load(b, x + at.row * stride_x + first + half_dim);
  load(cosine, cos_sin + at.row * stride_cos_sin + col);
  load(sine, cos_sin + at.row * stride_cos_sin + half_dim + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    const float s = sign * sine[i], turned = a[i] * cosine[i] - b[i] * s;
    b[i] = b[i] * cosine[i] + a[i] * s;
    a[i] = turned;
  }
  store(y + at.row * stride_y + first, a);
  store(y + at.row * stride_y + first + half_dim, b);
}
