// Every part's pieces out of x. Reads x once, writes the parts once.
#include "columns.h"

namespace qdl {
namespace QDL_ISA {

static void splitColumns(Context& context, const double* words, uint8_t*) {
  Args args(words);
  const Tensor x = args.tensor();
  const int64_t groups = args.integer();
  eachPiece(context, x, readList(args), groups,
            [](uint8_t* whole, uint8_t* part, int64_t bytes) { memcpy(part, whole, bytes); });
}

}  // namespace QDL_ISA
}  // namespace qdl
