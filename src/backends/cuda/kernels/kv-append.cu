// cache[rows[i]] = x[i]; a row outside the cache is dropped.

extern "C" __global__ void kv_append(const X_TYPE *x, i64 stride_x, const int *rows_of, i64 stride_rows, Y_TYPE *cache, i64 stride_cache,
                                     u32 cache_rows, u32 rows, u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u32 row = rows_of[at.row * stride_rows];
  if (row >= cache_rows) return;
  const u64 col = (u64)at.pack * WIDTH;
  float v[WIDTH];
  load(v, x + at.row * stride_x + col);
  store(cache + row * stride_cache + col, v);
}
