// What kernels work on. Plain data only: this header is shared by builds for different instruction sets.
#pragma once
#include <cstddef>
#include <cstdint>

namespace qdl {

/** Codes of dtypes, as kernels.ts writes them. */
enum DType : int32_t { F32 = 0, BF16 = 1, I32 = 2, U8 = 3 };

/** A view: rows × cols elements, `stride` elements from row to row. `data` is null for an absent optional argument. */
struct Tensor {
  uint8_t* data;
  int64_t rows, cols, stride;
  DType dtype;
};

/** Formats of a frozen weight, as kernels.ts writes them. */
enum Format : int32_t { NF4 = 0, FP4 = 1, DENSE = 2, ZERO = 3 };

/** [rows, cols]; `values` holds 4-bit codes or the dense matrix. `absmax2` is null unless scales are quantised too. */
struct Weight {
  Format format;
  int64_t rows, cols;
  Tensor values, scales, absmax2, map;
  float offset;
};

/** Rows from..to−1 run at adapter rank `rank` with scale `scale`. In doubles: it is read where the caller wrote it. */
struct Range {
  double from, to, rank, scale;
};

/** Row ranges in order, without gaps; none: every row has rank 0. */
struct Ranges {
  const Range* list;
  int64_t count;
};

}  // namespace qdl
