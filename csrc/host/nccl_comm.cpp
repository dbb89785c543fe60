// See nccl_comm.h.
#include "hicache/nccl_comm.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "hicache/check.h"
#include "hicache/cuda_array.h"

namespace hicache {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPoll = std::chrono::microseconds(200);

template <class Done>
bool poll(double max_s, Done is_done) {
  const auto end = Clock::now() + std::chrono::duration<double>(max_s);
  while (!is_done()) {
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

}  // namespace

NcclComm::NcclComm(std::shared_ptr<CudaApi> cuda, const NcclLibrary& nccl, const NcclId& id,
                   int rank, int size, int device)
    : cuda_(std::move(cuda)), nccl_(nccl), device_(device) {
  require_device(*cuda_, device);
  const DeviceScope scope(*cuda_, device);
  comm_ = nccl_.start_comm(id, rank, size);
}

NcclComm::~NcclComm() {
  try {
    abort();
  } catch (const Error&) {
    // Nothing is left to try.
  }
}

bool NcclComm::wait(double max_s) const {
  return poll(max_s, [&] { return !nccl_.in_progress(comm_); });
}

void NcclComm::destroy() {
  if (comm_ == nullptr) return;
  const DeviceScope scope(*cuda_, device_);
  nccl_.destroy(std::exchange(comm_, nullptr));
}

void NcclComm::abort() {
  if (comm_ == nullptr) return;
  const DeviceScope scope(*cuda_, device_);
  nccl_.abort(std::exchange(comm_, nullptr));
}

struct NcclExchange::Buffers {
  Buffers(CudaApi& cuda, size_t row_size, int num_rows)
      : mine(cuda, MemoryKind::kDevice, row_size),
        rows(cuda, MemoryKind::kDevice, row_size * num_rows),
        staged(cuda, MemoryKind::kPinned, row_size),
        out(cuda, MemoryKind::kPinned, row_size * num_rows) {}

  CudaArray<int64_t> mine;
  CudaArray<int64_t> rows;
  CudaArray<int64_t> staged;
  CudaArray<int64_t> out;
};

NcclExchange::NcclExchange(std::shared_ptr<CudaApi> cuda, const NcclLibrary& nccl, void* comm,
                           int device, CudaStream stream, const std::vector<int64_t>& row)
    : cuda_(std::move(cuda)), nccl_(nccl), comm_(comm), stream_(stream), row_size_(row.size()) {
  HICACHE_CHECK(kAgreement, comm != nullptr, "comm=0 is no communicator");
  require_device(*cuda_, device);
  const DeviceScope scope(*cuda_, device);
  HICACHE_CHECK(kCuda, !cuda_->is_capturing(stream), "ranks cannot meet in a capture");
  size_ = nccl_.comm_size(comm);
  buffers_ = std::make_unique<Buffers>(*cuda_, row_size_, size_);
  std::copy(row.begin(), row.end(), buffers_->staged.get());
  const size_t num_bytes = row_size_ * sizeof(int64_t);
  done_ = cuda_->create_event();
  cuda_->copy(buffers_->mine.get(), buffers_->staged.get(), num_bytes, stream);
  nccl_.all_gather(buffers_->mine.get(), buffers_->rows.get(), row_size_, comm, stream);
  cuda_->copy(buffers_->out.get(), buffers_->rows.get(), num_bytes * size_, stream);
  cuda_->record(done_, stream);
}

NcclExchange::~NcclExchange() {
  // While a peer is missing the device may still write: better leaked than freed under its hands.
  if (!cuda_->is_done(done_)) buffers_.release();
  cuda_->destroy(done_);
}

bool NcclExchange::wait(double max_s) {
  const bool is_there = poll(max_s, [&] {
    const std::string error = nccl_.async_error(comm_);
    HICACHE_CHECK(kAgreement, error.empty(), "a peer is lost, NCCL says: ", error);
    return cuda_->is_done(done_);
  });
  if (is_there) cuda_->wait(done_);  // raises what went wrong on the device
  return is_there;
}

std::vector<std::vector<int64_t>> NcclExchange::rows() const {
  std::vector<std::vector<int64_t>> rows;
  for (int rank = 0; rank < size_; ++rank) {
    const int64_t* row = buffers_->out.get() + rank * row_size_;
    rows.emplace_back(row, row + row_size_);
  }
  return rows;
}

}  // namespace hicache
