// What splitColumns and joinColumns share: a matrix whose columns are groups of pieces, one piece of every part in turn.
// Rows are copied as bytes; an item owns whole rows.
#pragma once
#include "linear-group.h"
#include "rows.h"

namespace qdl {
namespace QDL_ISA {

/** Calls copy(piece of the whole, piece of the part, bytes) for every piece of every row. */
template <class Copy>
QDL_INLINE void eachPiece(Context& context, const Tensor& whole, const TensorList& parts, int64_t groups, Copy copy) {
  eachRow(context, whole.rows, whole.cols, [&](int64_t row) {
    int64_t from = 0;
    for (const Tensor& part : parts.items) {
      if (!part.data) break;
      const int64_t width = part.cols / groups;
      for (int64_t group = 0; group < groups; group++) {
        const int64_t bytes = address(part, 0, width) - address(part, 0, 0);
        copy(address(whole, row, group * (whole.cols / groups) + from), address(part, row, group * width), bytes);
      }
      from += width;
    }
  });
}

}  // namespace QDL_ISA
}  // namespace qdl
