// AdamW on a window of rows of every tensor of a list. A block takes `blockDim.x` packs of one row.
#include "adam-w.cuh"

struct Entry {
  u64 first_block;
  float *param;
  const float *gradient;
  float *m, *v;
  bf16 *copy;
  i64 stride_param, stride_gradient, stride_m, stride_v, stride_copy;
  double learning_rate;
  u32 packs, blocks_per_row;
};

extern "C" __global__ void adam_w(const Entry *table, const int *steps, i64 stride_steps, const float *squares,
                                  AdamWSettings settings) {
  __shared__ RowUpdate shared_update;
  const float scale = clip_factor(*squares, settings.max_norm);
  if (scale != scale) return;
  const Entry &e = entry_of_block(table, settings.tensors, blockIdx.x);
  const u32 block = (u32)(blockIdx.x - e.first_block);
  const u64 row = block / e.blocks_per_row;
  if (threadIdx.x == 0) shared_update = row_update(settings, scale, e.learning_rate, steps[row * stride_steps]);
  __syncthreads();
  const u32 pack = (block % e.blocks_per_row) * blockDim.x + threadIdx.x;
  if (pack >= e.packs) return;
  const RowUpdate u = shared_update;
  const u64 col = (u64)pack * WIDTH;
  float p[WIDTH], g[WIDTH], first[WIDTH], second[WIDTH];
  load(p, e.param + row * e.stride_param + col);
  load(g, e.gradient + row * e.stride_gradient + col);
  load(first, e.m + row * e.stride_m + col);
  load(second, e.v + row * e.stride_v + col);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) update(u, g[i], p[i], first[i], second[i]);
  store(e.param + row * e.stride_param + col, p);
  store(e.m + row * e.stride_m + col, first);
  store(e.v + row * e.stride_v + col, second);
  if (e.copy) store(e.copy + row * e.stride_copy + col, p);
}
