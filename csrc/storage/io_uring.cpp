// io_uring: each caller has a ring to itself for the time of its batch, so that nobody wakes anyone
// and the thread that waits for the disk is the one that wants the pages.
#include "io_uring.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "hicache/check.h"
#include "io_uring_lane.h"

namespace hicache {
namespace {

constexpr int64_t kLimitSliceNs = 10'000'000;        // how late a cancellation may be seen
constexpr size_t kMaxBufferBytes = size_t{1} << 30;  // of one registered range
constexpr int kMaxRefusals = 100;                    // of a batch by the kernel, 1 ms apart
constexpr size_t kMaxIdle = 8;

template <typename Slot>
Slot& free_slot(std::vector<Slot>& slots) {
  for (Slot& slot : slots)
    if (slot.id == 0) return slot;
  return slots.emplace_back();
}

class UringEngine final : public IoEngine {
 public:
  explicit UringEngine(const IoConfig& config) : config_(config) {
    idle_.push_back(std::make_unique<UringLane>());
    num_lanes_ = 1;
  }

  void run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
           const IoDone& done) override;
  int sync(int file) override { return ::fdatasync(file) == 0 ? 0 : errno; }
  void add_buffer(void* begin, size_t num_bytes) override;
  void remove_buffer(void* begin) override;
  void add_file(int file) override;
  void remove_file(int file) override;
  IoReport report() const override;

 private:
  // What one run() is made of.
  struct Call {
    UringEngine& engine;
    IoBatch batch;
    std::unique_ptr<UringLane> lane;
    bool is_reading;
    uint64_t in_flight_bytes = 0;
    int num_refusals = 0;

    void start_ready();
    void submit(unsigned num_awaited, int64_t timeout_ns);
    void reap();
    bool take_bytes(uint64_t num_bytes, IoOp op);
    void give_bytes(uint64_t num_bytes);
  };

  std::unique_ptr<UringLane> take_lane();
  void give_lane(std::unique_ptr<UringLane> lane);
  void sync_idle();

  const IoConfig config_;
  std::atomic<uint64_t> in_flight_bytes_{0};
  std::atomic<int> num_reading_{0};
  mutable std::mutex mutex_;
  std::condition_variable lane_is_back_;
  std::vector<std::unique_ptr<UringLane>> idle_;
  int num_lanes_ = 0;
  IoTables tables_;
  uint64_t last_id_ = 0;
  int buffer_error_ = 0;  // why one of them is not registered
};

void UringEngine::run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
                      const IoDone& done) {
  if (num_requests == 0) return;
  const bool is_reading = std::any_of(requests, requests + num_requests,
                                      [](const IoRequest& r) { return r.op == IoOp::kRead; });
  Call call{*this, IoBatch(requests, num_requests, config_.max_call_bytes), take_lane(),
            is_reading};
  num_reading_ += is_reading;
  const int64_t slice_ns = limit.is_set() ? kLimitSliceNs : 0;
  for (bool was_told_to_stop = false; !call.batch.is_over() || call.batch.has_ended();) {
    if (call.lane->is_broken()) call.batch.stop(EIO);
    if (limit.is_over()) {
      call.batch.stop(ECANCELED);
      if (!was_told_to_stop && call.lane->num_in_flight() > 0) call.lane->cancel_all();
      was_told_to_stop = true;
    }
    call.start_ready();
    // What is in flight goes on while the caller looks at what has ended.
    const auto ended = call.batch.take_ended();
    if (!ended.empty()) call.submit(0, 0);
    tell(ended, done);
    if (ended.empty()) call.submit(1, slice_ns);
    call.reap();
  }
  num_reading_ -= is_reading;
  give_lane(std::move(call.lane));
}

void UringEngine::Call::start_ready() {
  while (batch.has_ready() && !lane->is_full()) {
    const uint32_t piece = batch.next();
    if (!take_bytes(batch.piece(piece).num_bytes, batch.piece(piece).op)) break;
    batch.pop();
    lane->start(batch, piece);
  }
}

void UringEngine::Call::submit(unsigned num_awaited, int64_t timeout_ns) {
  const int error = lane->submit(num_awaited, timeout_ns);
  if (error == 0) {
    num_refusals = 0;
    return;
  }
  const bool may_pass = error == EAGAIN || error == EBUSY || error == EINTR || error == ENOMEM;
  if (may_pass && ++num_refusals < kMaxRefusals) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return;
  }
  for (const uint32_t piece : lane->give_up()) {
    give_bytes(batch.piece(piece).num_bytes);
    batch.finish(piece, -EIO);
  }
}

void UringEngine::Call::reap() {
  uint32_t piece = 0;
  int64_t result = 0;
  while (lane->reap(&piece, &result)) {
    const IoCall call = batch.call(piece);
    if (engine.config_.fault) result = engine.config_.fault(call, result);
    give_bytes(call.num_bytes);
    batch.finish(piece, result);
  }
}

// One call of each caller may always be in flight; while others read, writes have a quarter.
bool UringEngine::Call::take_bytes(uint64_t num_bytes, IoOp op) {
  const uint64_t most = engine.config_.max_in_flight_bytes;
  const bool gives_way = op == IoOp::kWrite && engine.num_reading_ > (is_reading ? 1 : 0);
  const uint64_t limit = gives_way ? most / 4 : most;
  uint64_t now = engine.in_flight_bytes_;
  do {
    if (in_flight_bytes > 0 && now + num_bytes > limit) return false;
  } while (!engine.in_flight_bytes_.compare_exchange_weak(now, now + num_bytes));
  in_flight_bytes += num_bytes;
  return true;
}

void UringEngine::Call::give_bytes(uint64_t num_bytes) {
  in_flight_bytes -= num_bytes;
  engine.in_flight_bytes_ -= num_bytes;
}

std::unique_ptr<UringLane> UringEngine::take_lane() {
  std::unique_lock lock(mutex_);
  while (idle_.empty()) {
    try {
      auto fresh = std::make_unique<UringLane>();
      fresh->sync(tables_);
      ++num_lanes_;
      return fresh;
    } catch (const Error&) {
      if (num_lanes_ == 0) throw;
    }
    lane_is_back_.wait(lock);  // one of the others will do
  }
  auto lane = std::move(idle_.back());
  idle_.pop_back();
  return lane;
}

void UringEngine::give_lane(std::unique_ptr<UringLane> lane) {
  std::lock_guard lock(mutex_);
  if (idle_.size() < kMaxIdle && !lane->is_broken()) {
    lane->sync(tables_);
    idle_.push_back(std::move(lane));
  } else {
    --num_lanes_;
  }
  lane_is_back_.notify_one();
}

void UringEngine::sync_idle() {
  for (const auto& lane : idle_) {
    if (const int error = lane->sync(tables_)) buffer_error_ = error;
  }
}

void UringEngine::add_buffer(void* begin, size_t num_bytes) {
  std::lock_guard lock(mutex_);
  for (size_t at = 0; at < num_bytes; at += kMaxBufferBytes) {
    const size_t slice_bytes = std::min(kMaxBufferBytes, num_bytes - at);
    auto& slot = free_slot(tables_.buffers);
    slot = {++last_id_, begin, static_cast<std::byte*>(begin) + at, slice_bytes};
  }
  sync_idle();
}

void UringEngine::remove_buffer(void* begin) {
  std::lock_guard lock(mutex_);
  for (IoTables::Buffer& buffer : tables_.buffers)
    if (buffer.owner == begin) buffer = {};
  sync_idle();
}

void UringEngine::add_file(int file) {
  std::lock_guard lock(mutex_);
  auto& slot = free_slot(tables_.files);
  slot = {++last_id_, file};
  sync_idle();
}

void UringEngine::remove_file(int file) {
  std::lock_guard lock(mutex_);
  for (IoTables::File& known : tables_.files)
    if (known.file == file) known = {};
  sync_idle();
}

IoReport UringEngine::report() const {
  std::lock_guard lock(mutex_);
  if (buffer_error_ == 0) return {"io_uring", "", "registered"};
  return {"io_uring", "", std::string("plain: ") + std::strerror(buffer_error_)};
}

}  // namespace

std::unique_ptr<IoEngine> make_uring_engine(const IoConfig& config) {
  return std::make_unique<UringEngine>(config);
}

}  // namespace hicache
