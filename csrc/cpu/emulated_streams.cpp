// See emulated_streams.h.
#include "hicache/emulated_streams.h"

#include <algorithm>
#include <utility>

#include "hicache/check.h"

namespace hicache {
namespace {

// Handles are numbers that no pointer has by chance, nor one of CUDA's own handles.
constexpr uintptr_t kFirstHandle = 0x1000;

template <class Handle>
Handle make_handle(size_t number) {
  return reinterpret_cast<Handle>(kFirstHandle + number * 16);
}

template <class Handle>
std::string show_handle(Handle handle) {
  const auto value = reinterpret_cast<uintptr_t>(handle);
  return std::to_string(value < kFirstHandle ? value : (value - kFirstHandle) / 16);
}

}  // namespace

std::string show(CudaStream stream) { return show_handle(stream); }
std::string show(CudaEvent event) { return show_handle(event); }

EmulatedStreams::EmulatedStreams(uint32_t seed, int64_t fail_work, int queries_per_step)
    : rng_(seed), fail_work_(fail_work), queries_per_step_(queries_per_step) {
  streams_[nullptr];
}

CudaStream EmulatedStreams::add_stream(int device) {
  const auto stream = make_handle<CudaStream>(streams_.size());
  streams_[stream].device = device;
  return stream;
}

CudaEvent EmulatedStreams::make_event() {
  const auto event = make_handle<CudaEvent>(events_.size());
  events_[event];
  return event;
}

EmulatedStreams::Stream& EmulatedStreams::at(CudaStream stream) {
  // 1 is cudaStreamLegacy, another name of NULL.
  const bool is_legacy = reinterpret_cast<uintptr_t>(stream) == 1;
  const auto found = streams_.find(is_legacy ? nullptr : stream);
  HICACHE_CHECK(kCuda, found != streams_.end(), "no such stream: ", show(stream));
  return found->second;
}

EmulatedStreams::Event& EmulatedStreams::at(CudaEvent event) {
  const auto found = events_.find(event);
  HICACHE_CHECK(kCuda, found != events_.end(), "no such event: ", show(event));
  return found->second;
}

void EmulatedStreams::enqueue(CudaStream stream, std::function<void()> work) {
  enqueue(stream, nullptr, std::move(work));
}

void EmulatedStreams::enqueue(CudaStream stream, std::function<bool()> may_run,
                              std::function<void()> work) {
  Stream& target = at(stream);
  const Op op{std::move(work), nullptr, 0, false, std::move(may_run)};
  if (target.is_capturing)
    target.captured.push_back(op);
  else
    target.queue.push_back(op);
}

void EmulatedStreams::record(CudaEvent event, CudaStream stream) {
  Event& target = at(event);
  Stream& on = at(stream);
  target.is_captured = on.is_capturing;
  if (!on.is_capturing)
    on.queue.push_back({nullptr, &target, ++target.num_recorded, false, nullptr});
}

void EmulatedStreams::stream_wait(CudaStream stream, CudaEvent event) {
  Event& awaited = at(event);
  Stream& target = at(stream);
  HICACHE_CHECK(kCuda, !target.is_capturing && !awaited.is_captured,
                "stream_wait: the emulator captures one stream at a time");
  target.queue.push_back({nullptr, &awaited, awaited.num_recorded, true, nullptr});
}

bool EmulatedStreams::step() {
  std::vector<Stream*> ready;
  for (auto& [handle, stream] : streams_) {
    if (stream.queue.empty()) continue;
    const Op& op = stream.queue.front();
    const bool waits = op.is_wait && op.event->num_done < op.version;
    if (!waits && (!op.may_run || op.may_run())) ready.push_back(&stream);
  }
  if (ready.empty()) return false;
  Stream& stream = *ready[rng_() % ready.size()];
  const Op op = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (op.work) {
    if (num_works_++ == fail_work_)
      has_failed_ = true;
    else
      op.work();
  } else if (!op.is_wait) {
    op.event->num_done = std::max(op.event->num_done, op.version);
  }
  return true;
}

void EmulatedStreams::run_until(const std::function<bool()>& is_done) {
  while (!is_done()) HICACHE_CHECK(kCuda, step(), "streams wait for each other for ever");
}

bool EmulatedStreams::is_done(CudaEvent event) {
  const Event& asked = at(event);
  return asked.num_done >= asked.num_recorded;
}

bool EmulatedStreams::query(CudaEvent event) {
  if (!is_done(event) && ++num_queries_ % queries_per_step_ == 0) step();
  return is_done(event);
}

void EmulatedStreams::run_to(CudaEvent event) {
  HICACHE_CHECK(kCuda, !at(event).is_captured, "the event ", show(event), " belongs to a capture");
  run_until([&] { return is_done(event); });
}

void EmulatedStreams::run(CudaStream stream) {
  const Stream& target = at(stream);
  HICACHE_CHECK(kCuda, !target.is_capturing, "stream ", show(stream), " is being captured");
  run_until([&] { return target.queue.empty(); });
}

void EmulatedStreams::run_all() {
  run_until([&] {
    return std::all_of(streams_.begin(), streams_.end(),
                       [](const auto& item) { return item.second.queue.empty(); });
  });
}

int64_t EmulatedStreams::num_pending() const {
  int64_t count = 0;
  for (const auto& [handle, stream] : streams_)
    count += std::count_if(stream.queue.begin(), stream.queue.end(),
                           [](const Op& op) { return op.work != nullptr; });
  return count;
}

void EmulatedStreams::begin_capture(CudaStream stream) {
  at(stream).is_capturing = true;
  at(stream).captured.clear();
}

void EmulatedStreams::end_capture(CudaStream stream) { at(stream).is_capturing = false; }

void EmulatedStreams::replay(CudaStream stream) {
  Stream& target = at(stream);
  target.queue.insert(target.queue.end(), target.captured.begin(), target.captured.end());
}

}  // namespace hicache
