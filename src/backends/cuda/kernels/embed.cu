// y[n] = scale·table[tokens[n]], or 0 for a token outside the table.

extern "C" __global__ void embed(const X_TYPE *table, i64 stride_table, u32 table_rows, const int *tokens, i64 stride_tokens, Y_TYPE *y,
                                 i64 stride_y, u32 rows, u32 packs, float scale) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u32 token = tokens[at.row * stride_tokens];
  const u64 col = (u64)at.pack * WIDTH;
  float v[WIDTH] = {};
  if (token < table_rows) load(v, table + token * stride_table + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) v[i] *= scale;
  store(y + at.row * stride_y + col, v);
}
