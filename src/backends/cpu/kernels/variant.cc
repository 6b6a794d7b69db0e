// One build of all kernels for one instruction set: compiled several times with different -m flags and QDL_ISA. One unit,
// because the shared headers and not the ops take the compiler's time.
#include "fill.cc"
#include "cast.cc"
#include "add.cc"
#include "sum-squares.cc"
#include "embed.cc"
#include "dropout.cc"
#include "rms-norm.cc"
#include "rms-norm-backward.cc"
#include "layer-norm.cc"
#include "layer-norm-backward.cc"
#include "split-columns.cc"
#include "join-columns.cc"
#include "rope-table.cc"
#include "rope.cc"
#include "attention.cc"
#include "attention-backward.cc"
#include "attention-cached.cc"
#include "kv-append.cc"
#include "glu.cc"
#include "glu-backward.cc"
#include "gelu.cc"
#include "gelu-backward.cc"
#include "matmul.cc"
#include "adapted-linears.cc"
#include "adapted-linears-backward.cc"
#include "linear-cross-entropy.cc"
#include "quantize-4bit.cc"
#include "quantize-scales.cc"
#include "dequantize.cc"
#include "adam-w.cc"
#include "adam-w-8bit.cc"
#include "peak.h"

namespace qdl {
namespace QDL_ISA {

extern const Kernel KERNELS[];
const Kernel KERNELS[] = {
#define QDL_OP(name) name,
#include "ops.inc"
#undef QDL_OP
};

extern double (*const PEAK)(Context&, DType, double);
double (*const PEAK)(Context&, DType, double) = peak;

}  // namespace QDL_ISA
}  // namespace qdl
