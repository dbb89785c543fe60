// The one pool of copy threads.
#include "hicache/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace hicache {
namespace {

struct Job {
  const std::function<void(int64_t)>* fn;
  int64_t num_tasks;
  std::atomic<int64_t> next{0};
  int64_t num_done = 0;  // under mutex
  std::mutex mutex;
  std::condition_variable all_done;

  void work() {
    int64_t done = 0;
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < num_tasks; ++done)
      (*fn)(task);
    if (done == 0) return;
    // Notified under the lock: the waiter may let go of the job right after.
    std::lock_guard lock(mutex);
    num_done += done;
    if (num_done == num_tasks) all_done.notify_all();
  }

  void wait() {
    std::unique_lock lock(mutex);
    all_done.wait(lock, [&] { return num_done == num_tasks; });
  }
};

class Pool {
 public:
  void submit(const std::shared_ptr<Job>& job, int num_helpers) {
    {
      std::lock_guard lock(mutex_);
      start_threads(num_helpers);
      num_helpers = std::min(num_helpers, num_threads_);
      for (int i = 0; i < num_helpers; ++i) jobs_.push_back(job);
    }
    num_helpers == 1 ? wake_.notify_one() : wake_.notify_all();
  }

 private:
  // Where the process may have no more of them, the caller does their share.
  void start_threads(int num_helpers) {
    try {
      for (; num_threads_ < num_helpers; ++num_threads_) std::thread([this] { run(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return !jobs_.empty(); });
      const std::shared_ptr<Job> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job->work();  // finds nothing to do where the others were faster
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  int num_threads_ = 0;
};

// Never destroyed: its threads may outlive every static. A fork leaves a copy without threads, and
// perhaps with a locked mutex, so the child leaks it and starts with a new one.
std::atomic<Pool*> g_pool{nullptr};

Pool& pool() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { g_pool.store(nullptr, std::memory_order_relaxed); });
  (void)registered;
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current != nullptr) return *current;
  auto fresh = std::make_unique<Pool>();
  if (g_pool.compare_exchange_strong(current, fresh.get())) return *fresh.release();
  return *current;
}

}  // namespace

int num_usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_for(int64_t num_tasks, int num_threads, const std::function<void(int64_t)>& fn) {
  if (num_tasks <= 0) return;
  const int64_t num_helpers = std::min<int64_t>(num_threads, num_tasks) - 1;
  if (num_helpers <= 0) {
    for (int64_t task = 0; task < num_tasks; ++task) fn(task);
    return;
  }
  auto job = std::make_shared<Job>();
  job->fn = &fn;
  job->num_tasks = num_tasks;
  pool().submit(job, static_cast<int>(num_helpers));
  job->work();
  job->wait();
}

}  // namespace hicache
