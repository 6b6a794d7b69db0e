// A fork–join pool: workers take items from one counter. Between calls they spin for some 200 µs, because a training step
// forks every few microseconds, and then sleep, so that an idle backend costs nothing.
#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace qdl {

namespace {

constexpr int SPINS = 16000;
/** Added to `gate` when a call has ended: a worker that comes late finds it negative and stays out. */
constexpr int64_t CLOSED = INT64_MIN / 2;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/** One more turn of a wait that lasted `spins` so far: whoever is waited for may have lost its core. */
inline void pause(int spins) {
  if (spins < SPINS)
    relax();
  else
    std::this_thread::yield();
}

}  // namespace

class Pool {
 public:
  explicit Pool(int threads) {
    for (int thread = 1; thread < threads; thread++) workers_.emplace_back([this, thread] { work(thread); });
  }

  ~Pool() {
    stop_.store(true);
    wake();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(int64_t count, ItemFunction function, void* closure) {
    if (workers_.empty() || count <= 1) {
      for (int64_t item = 0; item < count; item++) function(closure, item, 0);
      return;
    }
    function_ = function;
    closure_ = closure;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(0, std::memory_order_release);
    wake();
    take(0);
    gate_.fetch_add(CLOSED, std::memory_order_acq_rel);
    for (int spins = 0; gate_.load(std::memory_order_acquire) != CLOSED; spins++) pause(spins);
  }

 private:
  void take(int thread) {
    for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) function_(closure_, item, thread);
  }

  void wake() {
    epoch_.fetch_add(1);
    if (sleepers_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      condition_.notify_all();
    }
  }

  /** Joins the call that is open, unless it has ended. */
  void join(int thread) {
    int64_t inside = gate_.load(std::memory_order_acquire);
    while (inside >= 0)
      if (gate_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) {
        take(thread);
        gate_.fetch_sub(1, std::memory_order_acq_rel);
        return;
      }
  }

  void work(int thread) {
    for (uint64_t seen = 0;;) {
      for (int spins = 0; epoch_.load() == seen && spins < SPINS; spins++) relax();
      if (epoch_.load() == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        condition_.wait(lock, [&] { return epoch_.load() != seen; });
        sleepers_.fetch_sub(1);
      }
      seen = epoch_.load();
      if (stop_.load()) return;
      join(thread);
    }
  }

  ItemFunction function_ = nullptr;
  void* closure_ = nullptr;
  int64_t count_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int64_t> gate_{CLOSED};
  alignas(64) std::atomic<uint64_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable condition_;
  std::vector<std::thread> workers_;
};

Pool* poolOpen(int threads) { return new Pool(threads); }
void poolClose(Pool* pool) { delete pool; }
void poolWait(const int64_t* counter, int64_t goal) {
  for (int spins = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < goal; spins++) pause(spins);
}
void poolRun(Pool* pool, int64_t count, ItemFunction function, void* closure) { pool->run(count, function, closure); }

}  // namespace qdl
