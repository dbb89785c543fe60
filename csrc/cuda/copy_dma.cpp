// See copy_dma.h.
#include "copy_dma.h"

#include <algorithm>

#include "hicache/copy_worker.h"

namespace hicache {
namespace {

bool is_legacy_default(CudaStream stream) {
  return reinterpret_cast<uintptr_t>(stream) <= 1;  // 0, or cudaStreamLegacy
}

struct NoGuard {
  void lower(uint64_t*, uint64_t) {}
  void add(uint64_t*, uint64_t) {}
};

}  // namespace

DmaQueue::DmaQueue(CudaApi& cuda, CudaStream stream)
    : cuda_(cuda),
      stream_(stream),
      in_batches_(!is_legacy_default(stream) && !cuda.is_capturing(stream)),
      regions_(pinned_regions()) {}

void DmaQueue::add(std::byte* dst, const std::byte* src, size_t num_bytes) {
  if (num_bytes_ > 0 && dst == dst_ + num_bytes_ && src == src_ + num_bytes_) {
    num_bytes_ += num_bytes;
    return;
  }
  cut();
  dst_ = dst;
  src_ = src;
  num_bytes_ = num_bytes;
}

void DmaQueue::flush() {
  cut();
  send();
}

void DmaQueue::cut() {
  while (num_bytes_ > 0) {
    const size_t size = std::min({num_bytes_, kMaxDmaBytes, room(dst_), room(src_)});
    dsts_.push_back(dst_);
    srcs_.push_back(src_);
    sizes_.push_back(size);
    dst_ += size;
    src_ += size;
    num_bytes_ -= size;
    if (sizes_.size() == kMaxBatchCopies) send();
  }
}

// How many bytes from here lie in one registration; memory that none covers has no end.
size_t DmaQueue::room(const std::byte* address) const {
  const auto next = std::upper_bound(
      regions_.begin(), regions_.end(), address,
      [](const std::byte* at, const PinnedRegion& region) { return at < region.address; });
  if (next == regions_.begin()) return SIZE_MAX;
  const PinnedRegion& region = *(next - 1);
  const auto offset = static_cast<size_t>(address - region.address);
  return offset < region.num_bytes ? region.num_bytes - offset : SIZE_MAX;
}

void DmaQueue::send() {
  if (sizes_.empty()) return;
  const bool is_small = *std::max_element(sizes_.begin(), sizes_.end()) <= kMaxOverlapBytes;
  const CopyBatch batch{dsts_.data(), srcs_.data(), sizes_.data(), sizes_.size(), is_small};
  in_batches_ = in_batches_ && cuda_.copy_batch(batch, stream_);
  if (!in_batches_)
    for (size_t i = 0; i < sizes_.size(); ++i) cuda_.copy(dsts_[i], srcs_[i], sizes_[i], stream_);
  dsts_.clear();
  srcs_.clear();
  sizes_.clear();
}

void add_runs(DmaQueue& queue, const CopySet& set) {
  for_each_pass(set, int64_t{kMaxDmaBytes}, [&](const Pass& pass) {
    const WorkerArgs args{pass, nullptr};
    NoGuard none;
    for (uint32_t part = 0; part < pass.set.num_parts; ++part) {
      for (uint32_t unit = pass.first_unit(part); unit < pass.unit_ends[part]; ++unit) {
        const Segment segment = segment_of(args, unit, true, none);
        if (segment.num_bytes > 0)
          queue.add(segment.dst, segment.src, static_cast<size_t>(segment.num_bytes));
      }
      // The copies of a batch have no order among them: the next layer is another batch.
      if (pass.set.parts[part].plan.order == RunOrder::kLayers) queue.flush();
    }
  });
}

}  // namespace hicache
