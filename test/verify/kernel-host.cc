// Runs the kernel library for emulated-library.ts: commands on standard input, answers on standard output. Compiled for the
// CPU that is emulated, so that the library is loaded and called there as Node would.
//   command: 6 doubles {what, a, b, c, d, bytes that follow}, then the bytes
//   answer: 2 doubles {value, bytes that follow}, then the bytes
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

extern "C" {
const char* qdl_variant(int variant);
int qdl_variant_runs(int variant);
int qdl_op(const char* name);
void* qdl_open(int variant, int threads);
void qdl_close(void* context);
void qdl_run(void* context, int op, const double* words, uintptr_t scratch);
double qdl_peak(void* context, int dtype, double seconds);
void* qdl_alloc(double bytes);
void qdl_free(void* block, double bytes);
}

/** As in emulated-library.ts. */
enum Command { VARIANT, VARIANT_RUNS, OP, OPEN, CLOSE, RUN, PEAK, ALLOC, FREE, COPY_IN, COPY_OUT };

static void* pointer(double address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }
static double number(const void* address) { return static_cast<double>(reinterpret_cast<uintptr_t>(address)); }

static void answer(double value, const void* bytes = nullptr, size_t count = 0) {
  const double head[2] = {value, static_cast<double>(count)};
  fwrite(head, sizeof head, 1, stdout);
  if (count > 0) fwrite(bytes, count, 1, stdout);
  fflush(stdout);
}

int main() {
  double head[6];
  std::vector<double> bytes;
  while (fread(head, sizeof head, 1, stdin) == 1) {
    const double a = head[1], b = head[2], c = head[3], d = head[4];
    const size_t count = static_cast<size_t>(head[5]);
    const int small = static_cast<int>(a);
    if (head[0] == COPY_IN) {
      if (count > 0 && fread(pointer(a), count, 1, stdin) != 1) return 1;
      answer(0);
      continue;
    }
    bytes.assign(count / sizeof(double) + 1, 0);
    if (count > 0 && fread(bytes.data(), count, 1, stdin) != 1) return 1;
    switch (static_cast<Command>(head[0])) {
      case VARIANT: {
        const char* name = qdl_variant(small);
        answer(name != nullptr, name, name ? strlen(name) : 0);
        break;
      }
      case VARIANT_RUNS: answer(qdl_variant_runs(small)); break;
      case OP: answer(qdl_op(reinterpret_cast<const char*>(bytes.data()))); break;
      case OPEN: answer(number(qdl_open(small, static_cast<int>(b)))); break;
      case CLOSE: answer((qdl_close(pointer(a)), 0)); break;
      case RUN: answer((qdl_run(pointer(a), static_cast<int>(b), bytes.data(), static_cast<uintptr_t>(c)), 0)); break;
      case PEAK: answer(qdl_peak(pointer(a), static_cast<int>(b), d)); break;
      case ALLOC: answer(number(qdl_alloc(a))); break;
      case FREE: answer((qdl_free(pointer(a), b), 0)); break;
      case COPY_OUT: answer(0, pointer(a), static_cast<size_t>(b)); break;
      default: return 1;
    }
  }
}
