// preadv and pwritev on a few threads: each of them is one call deep, so there are several.
#include "io_threads.h"

#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>

#include "hicache/check.h"
#include "io_batch.h"

namespace hicache {
namespace {

constexpr auto kLimitSlice = std::chrono::milliseconds(10);  // how late a cancellation may be seen

int64_t move_bytes(const IoCall& call, const iovec* iov, uint32_t num_iov) {
  const auto offset = static_cast<off_t>(call.offset);
  const int count = static_cast<int>(num_iov);
  const ssize_t moved = call.op == IoOp::kRead ? ::preadv(call.file, iov, count, offset)
                                               : ::pwritev(call.file, iov, count, offset);
  return moved < 0 ? -errno : moved;
}

class ThreadEngine final : public IoEngine {
 public:
  ThreadEngine(const IoConfig& config, std::string reason)
      : config_(config), reason_(std::move(reason)), owner_(::getpid()) {}

  ~ThreadEngine() override {
    {
      std::lock_guard lock(mutex_);
      is_closed_ = true;
    }
    work_.notify_all();
    // In a forked child there are no threads to wait for.
    for (std::thread& thread : threads_) ::getpid() == owner_ ? thread.join() : thread.detach();
  }

  void run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
           const IoDone& done) override;
  int sync(int file) override { return ::fdatasync(file) == 0 ? 0 : errno; }
  void add_buffer(void*, size_t) override {}
  void remove_buffer(void*) override {}
  void add_file(int) override {}
  void remove_file(int) override {}
  IoReport report() const override { return {"threads", reason_, "plain: threads have no others"}; }

 private:
  struct Caller {
    IoBatch batch;
    const IoLimit& limit;
    std::condition_variable changed;
  };

  void start_threads();
  void work();
  // The caller whose next piece may start now: one that reads, if there is one.
  Caller* choose();

  const IoConfig config_;
  const std::string reason_;
  const pid_t owner_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::list<Caller*> callers_;  // the first has waited longest
  std::list<std::thread> threads_;
  uint64_t in_flight_bytes_ = 0;
  bool is_closed_ = false;
};

void ThreadEngine::start_threads() {
  try {
    while (static_cast<int>(threads_.size()) < config_.num_threads)
      threads_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    // The process may have no more of them; one will do.
    if (threads_.empty()) throw;
  }
}

void ThreadEngine::run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
                       const IoDone& done) {
  if (num_requests == 0) return;
  Caller caller{IoBatch(requests, num_requests, config_.max_call_bytes), limit, {}};
  std::unique_lock lock(mutex_);
  start_threads();
  const auto place = callers_.insert(callers_.end(), &caller);
  work_.notify_one();
  const auto is_news = [&] { return caller.batch.has_ended() || caller.batch.is_over(); };
  for (;;) {
    if (limit.is_over()) caller.batch.stop(ECANCELED);
    if (limit.is_set())
      caller.changed.wait_for(lock, kLimitSlice, is_news);
    else
      caller.changed.wait(lock, is_news);
    const auto ended = caller.batch.take_ended();
    lock.unlock();
    tell(ended, done);
    lock.lock();
    if (caller.batch.is_over() && !caller.batch.has_ended()) break;
  }
  callers_.erase(place);
}

ThreadEngine::Caller* ThreadEngine::choose() {
  for (const IoOp op : {IoOp::kRead, IoOp::kWrite}) {
    for (auto it = callers_.begin(); it != callers_.end(); ++it) {
      IoBatch& batch = (*it)->batch;
      if (!batch.has_ready() || (*it)->limit.is_over()) continue;
      const IoPiece& piece = batch.piece(batch.next());
      const bool fits = in_flight_bytes_ == 0 ||
                        in_flight_bytes_ + piece.num_bytes <= config_.max_in_flight_bytes;
      if (piece.op != op || !fits) continue;
      callers_.splice(callers_.end(), callers_, it);
      return *it;
    }
  }
  return nullptr;
}

void ThreadEngine::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Caller* caller = nullptr;
    work_.wait(lock, [&] { return is_closed_ || (caller = choose()) != nullptr; });
    if (caller == nullptr) return;
    const uint32_t index = caller->batch.next();
    caller->batch.pop();
    const IoCall call = caller->batch.call(index);
    const iovec* const iov = caller->batch.iov(index);
    const uint32_t num_iov = caller->batch.piece(index).num_iov;
    in_flight_bytes_ += call.num_bytes;
    work_.notify_one();  // perhaps there is more
    lock.unlock();
    int64_t result = move_bytes(call, iov, num_iov);
    if (config_.fault) result = config_.fault(call, result);
    lock.lock();
    in_flight_bytes_ -= call.num_bytes;
    caller->batch.finish(index, result);
    caller->changed.notify_one();
  }
}

}  // namespace

std::unique_ptr<IoEngine> make_thread_engine(const IoConfig& config, std::string reason) {
  HICACHE_CHECK(kStorage, config.num_threads > 0, "num_threads=", config.num_threads);
  return std::make_unique<ThreadEngine>(config, std::move(reason));
}

}  // namespace hicache
