// A copy on a stream: ids up, kernel, what the guard saw back down, event.
#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "hicache/copy_worker.h"
#include "hicache/cuda_check.h"
#include "hicache/cuda_copy.h"

namespace hicache {
namespace {

// Pinned blocks go back here, since cudaHostAlloc takes long and waits for the device. A block may
// be taken again only when its ticket's event has passed: the stream may not have read it before.
class PinnedBlocks {
 public:
  std::byte* take(size_t num_bytes) {
    {
      std::lock_guard lock(mutex_);
      if (auto it = free_.find(num_bytes); it != free_.end()) {
        std::byte* block = it->second;
        free_.erase(it);
        return block;
      }
    }
    void* block = nullptr;
    HICACHE_CUDA_CHECK(cudaHostAlloc(&block, num_bytes, cudaHostAllocPortable));
    return static_cast<std::byte*>(block);
  }

  void give_back(std::byte* block, size_t num_bytes) noexcept {
    std::lock_guard lock(mutex_);
    free_.emplace(num_bytes, block);
  }

 private:
  std::mutex mutex_;
  std::multimap<size_t, std::byte*> free_;
};

// Never destroyed: at the end of the process CUDA may be gone before the statics are.
PinnedBlocks& pinned_blocks() {
  static auto* const blocks = new PinnedBlocks;
  return *blocks;
}

class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    HICACHE_CUDA_CHECK(cudaGetDevice(&before_));
    HICACHE_CUDA_CHECK(cudaSetDevice(device));
  }
  ~DeviceScope() { cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  HICACHE_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Whether the memory lies on the host. Pageable memory would be an illegal access in the kernel.
bool require_reachable(const char* side, const void* address, int device) {
  cudaPointerAttributes attributes{};
  HICACHE_CUDA_CHECK(cudaPointerGetAttributes(&attributes, address));
  const bool is_pageable = attributes.type == cudaMemoryTypeUnregistered;
  HICACHE_CHECK(kCuda,
                !is_pageable || device_attribute(cudaDevAttrPageableMemoryAccess, device) != 0,
                side, " buffer at ", address, " is host memory that CUDA does not know: pin it");
  return is_pageable || attributes.type == cudaMemoryTypeHost;
}

// Enough to keep a PCIe 5 link busy where the host takes part (notes on the round trip: two blocks
// of 64 KiB in flight, doubled for slower clocks); on the device alone a copy is worth a quarter of
// it.
int default_num_sms(bool with_host, int device) {
  return with_host ? 4 : std::max(1, device_attribute(cudaDevAttrMultiProcessorCount, device) / 4);
}

size_t align16(size_t num_bytes) { return (num_bytes + 15) / 16 * 16; }

class StreamTicket final : public CopyTicket {
 public:
  StreamTicket(const CopySet& set, const CudaCopyOptions& options) : options_(options), set_(set) {
    require_not_capturing();
    HICACHE_CUDA_CHECK(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
    try {
      start();
    } catch (...) {
      cudaStreamSynchronize(options_.stream);  // drain before anything goes back
      release();
      throw;
    }
  }

  ~StreamTicket() override {
    cudaEventSynchronize(done_);
    release();
  }

  bool query() override {
    const cudaError_t code = cudaEventQuery(done_);
    if (code == cudaErrorNotReady) return cudaGetLastError(), false;
    return true;  // an error is done as well; result() raises it
  }

  void wait() override { HICACHE_CUDA_CHECK(cudaEventSynchronize(done_)); }

  void wait_on_stream(CUstream_st* stream) override {
    HICACHE_CUDA_CHECK(cudaStreamWaitEvent(stream, done_, 0));
  }

  int64_t result() override {
    wait();
    CopyGuard guard;
    std::memcpy(&guard, pinned_, sizeof(guard));
    if (guard.first_bad != kNoBadPage) raise_bad_page(guard.first_bad);
    return static_cast<int64_t>(guard.num_bytes);
  }

 private:
  void require_not_capturing() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    HICACHE_CUDA_CHECK(cudaStreamIsCapturing(options_.stream, &status));
    HICACHE_CHECK(kCuda, status == cudaStreamCaptureStatusNone,
                  "the stream is being captured: a replay would read ids that are gone by then");
  }

  [[noreturn]] void raise_bad_page(uint64_t guard_word) const {
    const Position at = position_of(set_, static_cast<int64_t>(guard_word >> 33));
    const bool on_source = (guard_word >> 32 & 1) == 0;
    const Plan& plan = set_.parts[at.part].plan;
    raise(ErrorKind::kPageIndex, on_source ? "source" : "destination",
          " page id out of range: ", position_text(set_, at), " value=", guard_word & 0xffffffff,
          " num_pages=", on_source ? plan.src_num_pages : plan.dst_num_pages,
          " (found on the device; the page was skipped)");
  }

  bool reaches_host() const {
    bool with_host = false;
    for (uint32_t i = 0; i < set_.num_parts; ++i) {
      with_host |= require_reachable("source", set_.parts[i].src, options_.device);
      with_host |= require_reachable("destination", set_.parts[i].dst, options_.device);
    }
    return with_host;
  }

  void start() {
    const bool with_host = reaches_host();
    const auto num_bytes = static_cast<uint64_t>(check_page_ids(set_));
    bool is_checked = true;
    for (uint32_t i = 0; i < set_.num_parts; ++i)
      is_checked &= set_.parts[i].src_ids.place == IdPlace::kHost &&
                    set_.parts[i].dst_ids.place == IdPlace::kHost;
    const CopySet on_device = upload({kNoBadPage, is_checked ? num_bytes : 0});
    const int num_sms =
        options_.num_sms > 0 ? options_.num_sms : default_num_sms(with_host, options_.device);
    auto* const guard = is_checked ? nullptr : reinterpret_cast<CopyGuard*>(scratch_);
    launch_copy(on_device, guard, num_sms, options_.stream);
    if (guard != nullptr)
      HICACHE_CUDA_CHECK(cudaMemcpyAsync(pinned_, scratch_, sizeof(CopyGuard),
                                         cudaMemcpyDeviceToHost, options_.stream));
    HICACHE_CUDA_CHECK(cudaFreeAsync(std::exchange(scratch_, nullptr), options_.stream));
    HICACHE_CUDA_CHECK(cudaEventRecord(done_, options_.stream));
  }

  // One block for the guard and all id lists; host ids travel in it, device ids stay put.
  CopySet upload(const CopyGuard& guard) {
    size_t num_bytes = sizeof(CopyGuard);
    const auto for_each_list = [](CopySet& set, const auto& fn) {
      for (uint32_t i = 0; i < set.num_parts; ++i)
        for (PageIds* ids : {&set.parts[i].src_ids, &set.parts[i].dst_ids})
          if (ids->place == IdPlace::kHost)
            fn(*ids,
               static_cast<size_t>(set.parts[i].num_positions) * static_cast<size_t>(ids->width));
    };
    CopySet on_device = set_;
    for_each_list(on_device, [&](const PageIds&, size_t size) { num_bytes += align16(size); });
    pinned_bytes_ = std::bit_ceil(num_bytes);
    pinned_ = pinned_blocks().take(pinned_bytes_);
    void* scratch = nullptr;
    HICACHE_CUDA_CHECK(cudaMallocAsync(&scratch, pinned_bytes_, options_.stream));
    scratch_ = static_cast<std::byte*>(scratch);

    std::memcpy(pinned_, &guard, sizeof(guard));
    size_t at = sizeof(guard);
    for_each_list(on_device, [&](PageIds& ids, size_t size) {
      if (size > 0) std::memcpy(pinned_ + at, ids.data, size);
      ids = {scratch_ + at, ids.width, IdPlace::kDevice};
      at += align16(size);
    });
    HICACHE_CUDA_CHECK(
        cudaMemcpyAsync(scratch_, pinned_, at, cudaMemcpyHostToDevice, options_.stream));
    return on_device;
  }

  void release() noexcept {
    if (scratch_ != nullptr) cudaFreeAsync(scratch_, options_.stream);
    if (pinned_ != nullptr) pinned_blocks().give_back(pinned_, pinned_bytes_);
    if (done_ != nullptr) cudaEventDestroy(done_);
  }

  CudaCopyOptions options_;
  CopySet set_;
  cudaEvent_t done_ = nullptr;
  std::byte* scratch_ = nullptr;  // device: guard, then the id lists that came from the host
  std::byte* pinned_ = nullptr;   // the same on the host
  size_t pinned_bytes_ = 0;
};

}  // namespace

void require_device(int device) {
  int num_devices = 0;
  HICACHE_CUDA_CHECK(cudaGetDeviceCount(&num_devices));
  HICACHE_CHECK(kCuda, device >= 0 && device < num_devices, "device=", device,
                " num_devices=", num_devices);
}

std::shared_ptr<const uint64_t> upload_table(const std::vector<uint64_t>& planes, int device) {
  const DeviceScope scope(device);
  for (const uint64_t address : planes)
    require_reachable("table", reinterpret_cast<const void*>(address), device);
  const size_t num_bytes = planes.size() * sizeof(uint64_t);
  void* memory = nullptr;
  HICACHE_CUDA_CHECK(cudaMalloc(&memory, num_bytes));
  std::shared_ptr<const uint64_t> table(
      static_cast<const uint64_t*>(memory),
      [](const uint64_t* mine) { cudaFree(const_cast<uint64_t*>(mine)); });
  HICACHE_CUDA_CHECK(cudaMemcpy(memory, planes.data(), num_bytes, cudaMemcpyHostToDevice));
  return table;
}

std::unique_ptr<CopyTicket> copy_sm_reg(const CopySet& set, const CudaCopyOptions& options) {
  require_device(options.device);
  const DeviceScope scope(options.device);
  return std::make_unique<StreamTicket>(set, options);
}

}  // namespace hicache
