// The staged executor: a kernel between the device's layout and packed pages in the ring, and large
// DMAs between the ring and the host, so that one slot is on the link while the other is packed.
#include <algorithm>
#include <numeric>
#include <vector>

#include "copy_dma.h"
#include "copy_executors.h"
#include "staged_plan.h"

namespace hicache {
namespace {

PageIds& ids_of(CopyParams& part, CopySide side) {
  return side == CopySide::kSource ? part.src_ids : part.dst_ids;
}

// Packed pages take the place of one side.
void put_packed(CopyParams& part, CopySide side, std::byte* pages, const PageIds& ids) {
  ids_of(part, side) = ids;
  if (side == CopySide::kSource) {
    part.src = pages;
    part.src_planes = nullptr;
  } else {
    part.dst = pages;
    part.dst_planes = nullptr;
  }
}

// A part without its holes.
struct StagedPart {
  CopyParams kernel;
  CopyParams dma;
  int64_t page_stride;
  std::vector<int64_t> device_ids;
  std::vector<int64_t> host_ids;
  const int64_t* device_ids_there = nullptr;  // the device's copy
};

class StagedCopy {
 public:
  StagedCopy(CudaApi& cuda, const StagedJob& job, StagingRing& ring)
      : cuda_(cuda),
        job_(job),
        ring_(ring),
        device_side_(job.host_side == CopySide::kSource ? CopySide::kDestination
                                                        : CopySide::kSource) {
    parts_.reserve(job.set.num_parts);  // the upload keeps addresses of parts
    for (uint32_t i = 0; i < job.set.num_parts; ++i) add_part(job.set.parts[i]);
  }

  void send(Upload& upload);
  void run();

 private:
  void add_part(CopyParams part);
  void add_to_chunk(const StagedPart& part, size_t begin, size_t count);
  void run_chunk();
  void run_kernel();
  void run_dma();

  CudaApi& cuda_;
  const StagedJob& job_;
  StagingRing& ring_;
  const CopySide device_side_;
  std::vector<StagedPart> parts_;
  std::vector<int32_t> packed_ids_;  // 0, 1, ...: the packed pages of a part in a chunk
  const int32_t* packed_ids_there_ = nullptr;
  CopySet kernel_{}, dma_{};  // the chunk
  const StagingRing::Slot* slot_ = nullptr;
  size_t used_bytes_ = 0;  // of the slot
};

void StagedCopy::add_part(CopyParams part) {
  const StagedPlan plan = stage_plan(part.plan, job_.host_side);
  StagedPart& staged =
      parts_.emplace_back(StagedPart{part, part, packed_stride(part.plan), {}, {}});
  staged.kernel.plan = plan.kernel;
  staged.dma.plan = plan.dma;
  put_packed(staged.kernel, job_.host_side, nullptr, {});
  for (int64_t i = 0; i < part.num_positions; ++i) {
    if (part.src_ids.at(i) < 0 || part.dst_ids.at(i) < 0) continue;
    staged.device_ids.push_back(ids_of(part, device_side_).at(i));
    staged.host_ids.push_back(ids_of(part, job_.host_side).at(i));
  }
  const size_t most = std::min(ring_.slot_bytes() / static_cast<size_t>(packed_stride(part.plan)),
                               staged.host_ids.size());
  if (most > packed_ids_.size()) packed_ids_.resize(most);
}

void StagedCopy::send(Upload& upload) {
  std::iota(packed_ids_.begin(), packed_ids_.end(), 0);
  upload.add(packed_ids_.data(), packed_ids_.size() * sizeof(int32_t), [this](const std::byte* at) {
    packed_ids_there_ = reinterpret_cast<const int32_t*>(at);
  });
  for (StagedPart& part : parts_) {
    upload.add(part.device_ids.data(), part.device_ids.size() * sizeof(int64_t),
               [&part](const std::byte* at) {
                 part.device_ids_there = reinterpret_cast<const int64_t*>(at);
               });
    if (!part.device_ids.empty()) upload.add_planes(part.kernel);
  }
  upload.send(cuda_, job_.stream);
}

void StagedCopy::run() {
  for (const StagedPart& part : parts_) {
    for (size_t done = 0; done < part.host_ids.size();) {
      const auto room = [&] {
        return (ring_.slot_bytes() - used_bytes_) / static_cast<size_t>(part.page_stride);
      };
      if (kernel_.num_parts == kMaxParts || room() == 0) run_chunk();
      const size_t count = std::min(part.host_ids.size() - done, room());
      add_to_chunk(part, done, count);
      done += count;
    }
  }
  if (kernel_.num_parts > 0) run_chunk();
  // The copy is done for the caller's stream when the last slot is.
  if (slot_ != nullptr && device_side_ == CopySide::kSource)
    cuda_.stream_wait(job_.stream, slot_->free);
}

void StagedCopy::add_to_chunk(const StagedPart& part, size_t begin, size_t count) {
  if (kernel_.num_parts == 0) {
    const bool is_first = slot_ == nullptr;
    slot_ = &ring_.next_slot();
    if (is_first) {  // the DMAs, too, come after what the caller's stream did before
      cuda_.record(slot_->filled, job_.stream);
      cuda_.stream_wait(ring_.dma_stream(), slot_->filled);
    }
  }
  std::byte* const pages = slot_->memory + used_bytes_;
  CopyParams& kernel = kernel_.parts[kernel_.num_parts++] = part.kernel;
  put_packed(kernel, job_.host_side, pages, {packed_ids_there_, IdWidth::kInt32, IdPlace::kDevice});
  ids_of(kernel, device_side_) = {part.device_ids_there + begin, IdWidth::kInt64, IdPlace::kDevice};
  CopyParams& dma = dma_.parts[dma_.num_parts++] = part.dma;
  put_packed(dma, device_side_, pages, {packed_ids_.data(), IdWidth::kInt32, IdPlace::kHost});
  ids_of(dma, job_.host_side) = {part.host_ids.data() + begin, IdWidth::kInt64, IdPlace::kHost};
  kernel.num_positions = dma.num_positions = static_cast<int64_t>(count);
  used_bytes_ += count * static_cast<size_t>(part.page_stride);
}

// Two streams: whoever fills the slot waits until it is free, whoever empties it until it is full.
void StagedCopy::run_chunk() {
  const bool to_host = device_side_ == CopySide::kSource;
  const CudaStream filler = to_host ? job_.stream : ring_.dma_stream();
  const CudaStream emptier = to_host ? ring_.dma_stream() : job_.stream;
  cuda_.stream_wait(filler, slot_->free);
  to_host ? run_kernel() : run_dma();
  cuda_.record(slot_->filled, filler);
  cuda_.stream_wait(emptier, slot_->filled);
  to_host ? run_dma() : run_kernel();
  cuda_.record(slot_->free, emptier);
  kernel_.num_parts = dma_.num_parts = 0;
  used_bytes_ = 0;
}

void StagedCopy::run_kernel() {
  enqueue_kernel(cuda_, {register_kernel_for(kernel_), kernel_, nullptr, ring_.device(),
                         job_.num_sms, 0, job_.stream});
}

void StagedCopy::run_dma() { enqueue_batches(cuda_, dma_, ring_.dma_stream()); }

}  // namespace

void enqueue_staged(CudaApi& cuda, const StagedJob& job, StagingRing& ring, Upload& upload) {
  StagedCopy copy(cuda, job, ring);
  const auto lock = ring.lock();
  try {
    copy.send(upload);
    copy.run();
  } catch (...) {
    // Before anybody else gets the slots.
    cuda.synchronize(job.stream);
    cuda.synchronize(ring.dma_stream());
    throw;
  }
}

}  // namespace hicache
