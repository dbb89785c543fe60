// See cuda_emulator.h.
#include "hicache/cuda_emulator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <tuple>
#include <utility>

#include "emulated_grid.h"
#include "hicache/check.h"

namespace hicache {
namespace {

constexpr unsigned char kFreed = 0xdd;
const char* const kKernelNames[] = {"short_runs", "long_runs", "bulk"};  // of CopyKernel

// Memory as the loop bodies use it.
struct HostAccess {
  template <class Word>
  Word load(const std::byte* address) {
    Word word;
    std::memcpy(&word, address, sizeof(word));
    return word;
  }
  template <class Word>
  void store(std::byte* address, const Word& word) {
    std::memcpy(address, &word, sizeof(word));
  }
  void lower(uint64_t* target, uint64_t value) { *target = std::min(*target, value); }
  void add(uint64_t* target, uint64_t value) { *target += value; }
  void report_deadlock() { raise(ErrorKind::kCuda, "a barrier is waited for in the wrong phase"); }
};

}  // namespace

CudaEmulator::CudaEmulator(const EmulatorOptions& options)
    : options_(options), streams_(options.seed, options.fail_work, options.queries_per_step) {}

CudaEmulator::~CudaEmulator() { drop_resources(); }

void CudaEmulator::note(const std::string& call) {
  calls_.push_back(call);
  HICACHE_CHECK(kCuda, calls_to_failure_-- != 0, call, ": emulated failure");
}

const std::pair<std::byte* const, CudaEmulator::Memory>* CudaEmulator::memory_at(
    const void* address) {
  auto* const byte = static_cast<std::byte*>(const_cast<void*>(address));
  auto found = memory_.upper_bound(byte);
  if (found == memory_.begin()) return nullptr;
  --found;
  return byte < found->first + found->second.num_bytes ? &*found : nullptr;
}

// What tests ask for.

void CudaEmulator::register_host(std::byte* address, size_t num_bytes) {
  std::lock_guard lock(mutex_);
  memory_[address] = {num_bytes, {MemoryKind::kPinned, 0}, nullptr};
}

void CudaEmulator::begin_capture(CudaStream stream) {
  std::lock_guard lock(mutex_);
  streams_.begin_capture(stream);
}

void CudaEmulator::end_capture(CudaStream stream) {
  std::lock_guard lock(mutex_);
  streams_.end_capture(stream);
}

void CudaEmulator::replay(CudaStream stream) {
  std::lock_guard lock(mutex_);
  streams_.replay(stream);
}

void CudaEmulator::run_all() {
  std::lock_guard lock(mutex_);
  streams_.run_all();
}

std::vector<std::string> CudaEmulator::take_calls() {
  std::lock_guard lock(mutex_);
  return std::exchange(calls_, {});
}

int64_t CudaEmulator::num_pending() {
  std::lock_guard lock(mutex_);
  return streams_.num_pending();
}

void CudaEmulator::fail_call_after(int64_t num_calls) {
  std::lock_guard lock(mutex_);
  calls_to_failure_ = num_calls;
}

// The runtime's calls.

int CudaEmulator::num_devices() { return options_.num_devices; }

int CudaEmulator::set_device(int device) {
  std::lock_guard lock(mutex_);
  return std::exchange(current_device_, device);
}

DeviceTraits CudaEmulator::traits(int) { return options_.traits; }

DeviceIdentity CudaEmulator::identity(int device) {
  const std::string number = std::to_string(device);
  return {"GPU-emulated-" + number,           "emulated-" + number,    0,
          options_.traits.compute_major * 10, options_.traits.num_sms, false};
}

MemoryPlace CudaEmulator::place_of(const void* address) {
  std::lock_guard lock(mutex_);
  const auto* const memory = memory_at(address);
  return memory == nullptr ? MemoryPlace{MemoryKind::kPageable, 0} : memory->second.place;
}

CudaStream CudaEmulator::create_stream(StreamPriority priority) {
  std::lock_guard lock(mutex_);
  note(priority == StreamPriority::kHigh ? "create_stream high" : "create_stream low");
  return streams_.add_stream(current_device_);
}

int CudaEmulator::device_of(CudaStream stream) {
  std::lock_guard lock(mutex_);
  return reinterpret_cast<uintptr_t>(stream) <= 1 ? current_device_ : streams_.device_of(stream);
}

bool CudaEmulator::is_capturing(CudaStream stream) {
  std::lock_guard lock(mutex_);
  return streams_.is_capturing(stream);
}

void CudaEmulator::synchronize(CudaStream stream) noexcept {
  std::lock_guard lock(mutex_);
  calls_.push_back("synchronize stream=" + show(stream));
  streams_.run(stream);
}

void CudaEmulator::destroy(CudaStream stream) noexcept {
  std::lock_guard lock(mutex_);
  calls_.push_back("destroy stream=" + show(stream));
}

CudaEvent CudaEmulator::create_event() {
  std::lock_guard lock(mutex_);
  note("create_event");
  return streams_.add_event();
}

// The number is not used again, and what waits for the event may still be queued.
void CudaEmulator::destroy(CudaEvent event) noexcept {
  std::lock_guard lock(mutex_);
  calls_.push_back("destroy event=" + show(event));
}

void CudaEmulator::record(CudaEvent event, CudaStream stream) {
  std::lock_guard lock(mutex_);
  note("record event=" + show(event) + " stream=" + show(stream));
  streams_.record(event, stream);
}

void CudaEmulator::stream_wait(CudaStream stream, CudaEvent event) {
  std::lock_guard lock(mutex_);
  note("stream_wait stream=" + show(stream) + " event=" + show(event));
  streams_.stream_wait(stream, event);
}

bool CudaEmulator::is_done(CudaEvent event) {
  std::lock_guard lock(mutex_);
  return streams_.query(event);
}

void CudaEmulator::wait(CudaEvent event) {
  std::lock_guard lock(mutex_);
  streams_.run_to(event);
  HICACHE_CHECK(kCuda, !streams_.has_failed(), "wait: emulated failure on the device");
}

void CudaEmulator::drain(CudaEvent event) noexcept {
  std::lock_guard lock(mutex_);
  streams_.run_to(event);
}

std::byte* CudaEmulator::allocate(size_t num_bytes, MemoryKind kind) {
  auto bytes = std::make_unique<std::byte[]>(std::max<size_t>(num_bytes, 1) + 256);
  void* begin = bytes.get();
  size_t room = num_bytes + 256;
  auto* const address = static_cast<std::byte*>(std::align(256, num_bytes, begin, room));
  memory_[address] = {num_bytes, {kind, current_device_}, std::move(bytes)};
  return address;
}

std::byte* CudaEmulator::allocate_pinned(size_t num_bytes) {
  std::lock_guard lock(mutex_);
  note("allocate_pinned bytes=" + std::to_string(num_bytes));
  return allocate(num_bytes, MemoryKind::kPinned);
}

std::byte* CudaEmulator::allocate_device(size_t num_bytes) {
  std::lock_guard lock(mutex_);
  note("allocate_device bytes=" + std::to_string(num_bytes));
  return allocate(num_bytes, MemoryKind::kDevice);
}

// Work that still reads it finds kFreed, instead of what happens to be there.
void CudaEmulator::free(std::byte* memory, const char* call) noexcept {
  std::lock_guard lock(mutex_);
  calls_.push_back(call);
  const auto found = memory_.find(memory);
  if (found == memory_.end()) return;
  std::memset(memory, kFreed, found->second.num_bytes);
  freed_.push_back(std::move(found->second.bytes));
  memory_.erase(found);
}

// Like the copy engines: a copy that begins in a registration or allocation must end in it.
void CudaEmulator::require_copyable(const void* address, size_t num_bytes) {
  const auto* const memory = memory_at(address);
  if (memory == nullptr) return;  // pageable memory is copied through the driver's own staging
  const size_t begin = static_cast<size_t>(static_cast<const std::byte*>(address) - memory->first);
  HICACHE_CHECK(kCuda, num_bytes <= memory->second.num_bytes - begin, "copy of ", num_bytes,
                " bytes at ", address, " spans more than one registration: invalid value");
}

void CudaEmulator::copy(void* dst, const void* src, size_t num_bytes, CudaStream stream) {
  std::lock_guard lock(mutex_);
  note("copy stream=" + show(stream) + " bytes=" + std::to_string(num_bytes));
  require_copyable(dst, num_bytes);
  require_copyable(src, num_bytes);
  streams_.enqueue(stream, [=] { std::memcpy(dst, src, num_bytes); });
}

bool CudaEmulator::copy_batch(const CopyBatch& batch, CudaStream stream) {
  std::lock_guard lock(mutex_);
  const size_t total =
      std::accumulate(batch.num_bytes, batch.num_bytes + batch.num_copies, size_t{0});
  note("copy_batch stream=" + show(stream) + " copies=" + std::to_string(batch.num_copies) +
       " bytes=" + std::to_string(total) + (batch.may_overlap_compute ? " overlap" : ""));
  if (!options_.has_batches) return false;
  const auto value = reinterpret_cast<uintptr_t>(stream);
  HICACHE_CHECK(kCuda, value > 1, "copy_batch: the legacy default stream is an invalid value");
  HICACHE_CHECK(kCuda, !streams_.is_capturing(stream), "copy_batch: cannot be captured");
  std::vector<std::tuple<void*, const void*, size_t>> copies;
  for (size_t i = 0; i < batch.num_copies; ++i) {
    const size_t num_bytes = batch.num_bytes[i];
    HICACHE_CHECK(kCuda, num_bytes > 0, "copy_batch: entry ", i, " is empty");
    require_copyable(batch.dsts[i], num_bytes);
    require_copyable(batch.srcs[i], num_bytes);
    copies.emplace_back(batch.dsts[i], batch.srcs[i], num_bytes);
  }
  std::shuffle(copies.begin(), copies.end(), rng_);  // a batch has no order
  streams_.enqueue(stream, [copies = std::move(copies)] {
    for (const auto& [dst, src, num_bytes] : copies) std::memcpy(dst, src, num_bytes);
  });
  return true;
}

void CudaEmulator::preload(CopyKernel kernel) {
  std::lock_guard lock(mutex_);
  note(std::string("preload ") + kKernelNames[static_cast<int>(kernel)]);
  loaded_.emplace(current_device_, kernel);
}

void CudaEmulator::require_readable(const void* address, size_t alignment) {
  if (address == nullptr) return;
  HICACHE_CHECK(kCuda, memory_at(address) != nullptr || options_.traits.reads_pageable,
                "launch: illegal access to ", address);
  HICACHE_CHECK(kCuda, reinterpret_cast<uintptr_t>(address) % alignment == 0,
                "launch: misaligned address ", address);
}

void CudaEmulator::launch(CopyKernel kernel, const WorkerArgs& args, const CopyGrid& grid,
                          CudaStream stream) {
  std::lock_guard lock(mutex_);
  note(std::string("launch ") + kKernelNames[static_cast<int>(kernel)] + " stream=" + show(stream) +
       " blocks=" + std::to_string(grid.num_blocks));
  HICACHE_CHECK(kCuda,
                !loaded_.emplace(current_device_, kernel).second || !streams_.is_capturing(stream),
                "launch: the kernel's code would be loaded in a capture");
  require_readable(args.guard, alignof(CopyGuard));
  for (uint32_t i = 0; i < args.pass.set.num_parts; ++i) {
    const CopyParams& part = args.pass.set.parts[i];
    for (const PageIds& ids : {part.src_ids, part.dst_ids})
      require_readable(ids.data, static_cast<size_t>(ids.width));
    for (const uint64_t* planes : {part.src_planes, part.dst_planes})
      require_readable(planes, sizeof(uint64_t));
  }
  streams_.enqueue(stream, [=] {
    HostAccess memory;
    run_grid(kernel, args, grid, memory);
  });
}

}  // namespace hicache
