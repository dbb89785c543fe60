// The emulated device where a tick of an NcclGroup uses it: the kernels of cuda/lanes.cuh by one
// thread, and collectives that a test enqueues.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "hicache/check.h"
#include "hicache/cuda_emulator.h"
#include "hicache/cuda_lanes.h"

namespace hicache {
namespace {

void run_pack(const PackArgs& args) {
  pack_body(args.schema, *args.header, args.slots, args.endpoints, args.mine, 0, 1);
}

void run_unpack(const UnpackArgs& args) {
  const uint64_t tick = *args.num_ticks + 1;
  const auto entry = static_cast<int64_t>(tick % kTickRing);
  const int64_t count = num_lanes(args.schema);
  for (int64_t lane = 0; lane < count; ++lane) {
    args.agreed[lane] = min_of_rows(args.rows, args.num_rows, count, lane);
  }
  std::copy_n(args.agreed, count, args.lanes + entry * count);
  const int64_t bad = unpack_body(args.schema, args.agreed, args.mine,
                                  args.slots + entry * args.schema.num_slots, 0, 1);
  TickOutcome& outcome = args.outcomes[entry];
  outcome.verdict = lane_verdict(args.schema, args.agreed, args.mine, bad);
  *args.num_ticks = tick;
  std::atomic_ref<uint64_t>(outcome.sequence).store(tick, std::memory_order_release);
}

}  // namespace

int CudaEmulator::current_device() {
  std::lock_guard lock(mutex_);
  return current_device_;
}

bool CudaEmulator::step() {
  std::lock_guard lock(mutex_);
  return streams_.step();
}

std::optional<std::string> EmulatedCollective::take() {
  std::lock_guard lock(mutex_);
  if (sent_.empty()) return std::nullopt;
  std::string bytes = std::move(sent_.front());
  sent_.pop_front();
  return bytes;
}

void EmulatedCollective::answer(std::string bytes) {
  std::lock_guard lock(mutex_);
  answers_.push_back(std::move(bytes));
}

std::shared_ptr<EmulatedCollective> CudaEmulator::collective(const void* send, size_t send_bytes,
                                                             void* recv, size_t recv_bytes,
                                                             CudaStream stream) {
  std::lock_guard lock(mutex_);
  note("collective stream=" + show(stream));
  auto ranks = std::make_shared<EmulatedCollective>();
  streams_.enqueue(stream, [=] {
    std::lock_guard ranks_lock(ranks->mutex_);
    ranks->sent_.emplace_back(static_cast<const char*>(send), send_bytes);
  });
  const auto may_run = [=] {
    std::lock_guard ranks_lock(ranks->mutex_);
    return !ranks->answers_.empty();
  };
  streams_.enqueue(stream, may_run, [=] {
    std::lock_guard ranks_lock(ranks->mutex_);
    std::memcpy(recv, ranks->answers_.front().data(),
                std::min(recv_bytes, ranks->answers_.front().size()));
    ranks->answers_.pop_front();
  });
  return ranks;
}

bool CudaEmulator::is_idle(CudaStream stream) {
  std::lock_guard lock(mutex_);
  HICACHE_CHECK(kCuda, !streams_.is_capturing(stream), "is_idle: stream ", show(stream),
                " is being captured");
  HICACHE_CHECK(kCuda, !streams_.has_failed(), "is_idle: emulated failure on the device");
  return streams_.is_idle(stream);
}

void CudaEmulator::preload_ticks() {
  std::lock_guard lock(mutex_);
  note("preload ticks");
  ticks_loaded_.insert(current_device_);
}

void CudaEmulator::note_tick(const char* kernel, CudaStream stream) {
  note(std::string("launch ") + kernel + " stream=" + show(stream) +
       " device=" + std::to_string(current_device_));
  HICACHE_CHECK(kCuda,
                !ticks_loaded_.insert(current_device_).second || !streams_.is_capturing(stream),
                "launch: the kernel's code would be loaded in a capture");
}

void CudaEmulator::launch(const PackArgs& args, CudaStream stream) {
  std::lock_guard lock(mutex_);
  note_tick("pack", stream);
  require_readable(args.header, alignof(LaneHeader));
  require_readable(args.slots, alignof(SlotRecord));
  require_readable(args.endpoints, 1);
  streams_.enqueue(stream, [=] { run_pack(args); });
}

void CudaEmulator::launch(const UnpackArgs& args, CudaStream stream) {
  std::lock_guard lock(mutex_);
  note_tick("unpack", stream);
  require_readable(args.rows, alignof(int64_t));
  streams_.enqueue(stream, [=] { run_unpack(args); });
}

}  // namespace hicache
