// Every part's pieces into y, whose columns are groups of one piece of each part in turn; a piece of part i is width_i packs.

extern "C" __global__ void join_columns(TYPE *y, i64 stride_y, const TYPE *part_0, i64 stride_0, const TYPE *part_1, i64 stride_1,
                                        const TYPE *part_2, i64 stride_2, const TYPE *part_3, i64 stride_3, u32 width_0, u32 width_1,
                                        u32 width_2, u32 width_3, u32 rows, u32 packs) {
  const Place at = place(rows, packs);
  if (!at.inside) return;
  const u32 pitch = width_0 + width_1 + width_2 + width_3, group = at.pack / pitch;
  u32 col = at.pack - group * pitch, width = width_0;
  const TYPE *part = part_0;
  i64 stride = stride_0;
  if (col >= width) col -= width, width = width_1, part = part_1, stride = stride_1;
  if (part == part_1 && col >= width) col -= width, width = width_2, part = part_2, stride = stride_2;
  if (part == part_2 && col >= width) col -= width, width = width_3, part = part_3, stride = stride_3;
  typedef Pack<TYPE, WIDTH> Words;
  *reinterpret_cast<Words *>(y + at.row * stride_y + (u64)at.pack * WIDTH) =
      *reinterpret_cast<const Words *>(part + at.row * stride + (u64)(group * width + col) * WIDTH);
}
