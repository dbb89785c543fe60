// Copies on a stream: everything is checked, then enqueued; the ticket knows when it is done.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "copy_checks.h"
#include "copy_executors.h"
#include "hicache/check.h"

namespace hicache {
namespace {

// Enough to keep a PCIe 5 link busy where the host takes part (notes on the round trip: two blocks
// of 64 KiB in flight, doubled for slower clocks); on the device alone a copy is worth a quarter of
// it.
int num_sms_of(const CudaCopyOptions& options, const DeviceTraits& traits, bool with_host) {
  if (options.num_sms > 0) return options.num_sms;
  return with_host ? 4 : std::max(1, traits.num_sms / 4);
}

class StreamTicket final : public CopyTicket {
 public:
  StreamTicket(std::shared_ptr<CudaApi> cuda, const CopySet& set, const CudaCopyOptions& options)
      : owned_cuda_(std::move(cuda)),
        cuda_(*owned_cuda_),
        set_(set),
        options_(options),
        upload_(cuda_.resources(), options.device) {
    checked_ = check_cuda_copy(cuda_, set, options);
    done_ = cuda_.create_event();
    try {
      enqueue();
    } catch (...) {
      // Drain before anything goes back; under capture nothing runs.
      if (!checked_.is_captured) cuda_.synchronize(stream_);
      cuda_.destroy(done_);
      throw;
    }
  }

  ~StreamTicket() override {
    if (!checked_.is_captured) cuda_.drain(done_);
    cuda_.destroy(done_);
  }

  bool is_captured() const override { return checked_.is_captured; }

  bool query() override { return checked_.is_captured || cuda_.is_done(done_); }

  void wait() override {
    if (!checked_.is_captured) cuda_.wait(done_);
  }

  void wait_on_stream(CudaStream stream) override { cuda_.stream_wait(stream, done_); }

  int64_t result() override {
    wait();
    if (checked_.has_host_ids) return checked_.num_bytes;
    CopyGuard guard;
    std::memcpy(&guard, upload_.fetched(), sizeof(guard));
    if (guard.first_bad != kNoBadPage) raise_bad_page(guard.first_bad);
    return static_cast<int64_t>(guard.num_bytes);
  }

 private:
  [[noreturn]] void raise_bad_page(uint64_t guard_word) const {
    const Position at = position_of(set_, static_cast<int64_t>(guard_word >> 33));
    const bool on_source = (guard_word >> 32 & 1) == 0;
    const Plan& plan = set_.parts[at.part].plan;
    raise(ErrorKind::kPageIndex, on_source ? "source" : "destination",
          " page id out of range: ", position_text(set_, at), " value=", guard_word & 0xffffffff,
          " num_pages=", on_source ? plan.src_num_pages : plan.dst_num_pages,
          " (found on the device; the page was skipped)");
  }

  void enqueue() {
    stream_ = options_.stream;
    if (options_.priority) {
      // A stream of ours, behind what the caller's stream has by now.
      stream_ = cuda_.resources().stream(options_.device, *options_.priority);
      cuda_.record(done_, options_.stream);
      cuda_.stream_wait(stream_, done_);
    }
    switch (options_.executor) {
      case CudaExecutor::kCeBatch: enqueue_batches(cuda_, set_, stream_); break;
      case CudaExecutor::kStaged: stage(); break;
      default: run_kernel();
    }
    cuda_.record(done_, stream_);
  }

  void run_kernel() {
    CopyGuard unseen{kNoBadPage, 0};
    CopyGuard* guard = nullptr;
    if (!checked_.has_host_ids)
      upload_.add(&unseen, sizeof(unseen),
                  [&](std::byte* at) { guard = reinterpret_cast<CopyGuard*>(at); });
    CopySet on_device = set_;
    for (uint32_t i = 0; i < on_device.num_parts; ++i) {
      upload_.add_ids(on_device.parts[i]);
      upload_.add_planes(on_device.parts[i]);
    }
    upload_.send(cuda_, stream_);
    const CopyKernel kernel =
        options_.executor == CudaExecutor::kSmBulk ? CopyKernel::kBulk : register_kernel_for(set_);
    enqueue_kernel(cuda_, {kernel, on_device, guard, options_.device,
                           num_sms_of(options_, checked_.traits, checked_.with_host),
                           checked_.traits.max_shared_bytes, stream_});
    if (guard != nullptr) upload_.fetch_first(cuda_, stream_);
  }

  void stage() {
    if (options_.ring == nullptr) options_.ring = cuda_.resources().ring(options_.device);
    // The kernel works on device memory alone.
    const int num_sms = num_sms_of(options_, checked_.traits, false);
    enqueue_staged(cuda_, {set_, checked_.host_side, num_sms, stream_}, *options_.ring, upload_);
  }

  std::shared_ptr<CudaApi> owned_cuda_;
  CudaApi& cuda_;
  CopySet set_;
  CudaCopyOptions options_;
  CheckedCopy checked_;
  Upload upload_;  // what kernels still read
  CudaStream stream_ = nullptr;
  CudaEvent done_ = nullptr;
};

}  // namespace

bool is_capturing(int device, CudaStream stream) {
  const std::shared_ptr<CudaApi> cuda = cuda_api();
  require_device(*cuda, device);
  return cuda->is_capturing(stream);
}

std::unique_ptr<CopyTicket> copy_on_stream(const CopySet& set, const CudaCopyOptions& options) {
  std::shared_ptr<CudaApi> cuda = cuda_api();
  require_device(*cuda, options.device);
  const DeviceScope scope(*cuda, options.device);
  return std::make_unique<StreamTicket>(cuda, set, options);
}

}  // namespace hicache
