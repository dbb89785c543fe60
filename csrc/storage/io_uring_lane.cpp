#include "io_uring_lane.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "hicache/check.h"

namespace hicache {
namespace {

constexpr uint64_t kCancelTag = UINT64_MAX;  // of the call that cancels; the others have a piece
constexpr uint32_t kCancelPiece = UINT32_MAX;
constexpr unsigned kMaxFiles = 4096;
constexpr unsigned kMaxBuffers = 1024;  // of at most 1 GiB each

int open_ring(io_uring* ring, unsigned flags) {
  io_uring_params params{};
  params.flags = flags;
  return io_uring_queue_init_params(UringLane::kDepth, ring, &params);
}

}  // namespace

UringLane::UringLane() {
  // No SINGLE_ISSUER and so no DEFER_TASKRUN, which was no faster: a lane goes from caller to
  // caller, and any thread may register. No SQPOLL, which takes a core, and no IOPOLL, which few
  // disks have.
  int error = open_ring(&ring_, IORING_SETUP_COOP_TASKRUN);
  if (error == -EINVAL) error = open_ring(&ring_, 0);  // before Linux 5.19
  HICACHE_CHECK(kStorage, error == 0, "io_uring_setup: ", std::strerror(-error));
  rlimit open_files{};
  ::getrlimit(RLIMIT_NOFILE, &open_files);
  const auto num_files =
      static_cast<unsigned>(std::min<rlim_t>(kMaxFiles, open_files.rlim_cur / 2));
  has_files_ = io_uring_register_files_sparse(&ring_, num_files) == 0;
  has_buffers_ = io_uring_register_buffers_sparse(&ring_, kMaxBuffers) == 0;
  files_.resize(has_files_ ? num_files : 0);
  buffers_.resize(has_buffers_ ? kMaxBuffers : 0);
  queued_.reserve(kDepth + 1);
}

UringLane::~UringLane() { io_uring_queue_exit(&ring_); }

int UringLane::sync(const IoTables& tables) {
  for (size_t i = 0; i < std::min(files_.size(), tables.files.size()); ++i) {
    if (files_[i].id != tables.files[i].id) sync_file(static_cast<int>(i), tables.files[i]);
  }
  int error = has_buffers_ || tables.buffers.empty() ? 0 : ENOSYS;
  for (size_t i = 0; i < std::min(buffers_.size(), tables.buffers.size()); ++i) {
    if (buffers_[i] == tables.buffers[i].id) continue;
    if (const int refused = sync_buffer(static_cast<int>(i), tables.buffers[i])) error = refused;
  }
  return error;
}

void UringLane::sync_file(int slot, const IoTables::File& file) {
  IoTables::File& mine = files_[static_cast<size_t>(slot)];
  const auto known = slots_.find(mine.file);
  if (known != slots_.end() && known->second == slot) slots_.erase(known);
  mine = file;
  const bool is_taken =
      io_uring_register_files_update(&ring_, static_cast<unsigned>(slot), &file.file, 1) == 1;
  if (is_taken && file.file >= 0) slots_[file.file] = slot;
}

int UringLane::sync_buffer(int slot, const IoTables::Buffer& buffer) {
  uint64_t& mine = buffers_[static_cast<size_t>(slot)];
  std::erase_if(fixed_, [&](const auto& entry) { return entry.second == slot; });
  mine = buffer.id;
  const iovec range{buffer.begin, buffer.num_bytes};
  const __u64 tag = 0;
  const int done =
      io_uring_register_buffers_update_tag(&ring_, static_cast<unsigned>(slot), &range, &tag, 1);
  if (done == 1 && buffer.begin != nullptr) fixed_.push_back({range, slot});
  return done < 0 ? -done : 0;
}

int UringLane::fixed_slot(const iovec& iov) const {
  const auto* begin = static_cast<std::byte*>(iov.iov_base);
  for (const auto& [range, slot] : fixed_) {
    const auto* first = static_cast<std::byte*>(range.iov_base);
    if (begin >= first && begin + iov.iov_len <= first + range.iov_len) return slot;
  }
  return -1;
}

void UringLane::start(const IoBatch& batch, uint32_t index) {
  const IoPiece& piece = batch.piece(index);
  const iovec* const iov = batch.iov(index);
  io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
  const int buffer = piece.num_iov == 1 ? fixed_slot(*iov) : -1;
  const bool is_read = piece.op == IoOp::kRead;
  const auto num_bytes = static_cast<unsigned>(iov->iov_len);  // a piece is below 4 GiB
  const auto file = slots_.find(piece.file);
  const int fd = file == slots_.end() ? piece.file : file->second;
  if (buffer >= 0 && is_read) {
    io_uring_prep_read_fixed(sqe, fd, iov->iov_base, num_bytes, piece.offset, buffer);
  } else if (buffer >= 0) {
    io_uring_prep_write_fixed(sqe, fd, iov->iov_base, num_bytes, piece.offset, buffer);
  } else if (is_read) {
    io_uring_prep_readv(sqe, fd, iov, piece.num_iov, piece.offset);
  } else {
    io_uring_prep_writev(sqe, fd, iov, piece.num_iov, piece.offset);
  }
  if (file != slots_.end()) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
  io_uring_sqe_set_data64(sqe, index);
  queued_.push_back(index);
}

int UringLane::submit(unsigned num_awaited, int64_t timeout_ns) {
  __kernel_timespec timeout{timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  io_uring_cqe* first = nullptr;
  int result = 0;
  if (is_broken_) {  // what it did not accept must never be handed over again
    if (num_awaited > 0 && num_in_flight_ > 0)
      io_uring_wait_cqe_timeout(&ring_, &first, timeout_ns > 0 ? &timeout : nullptr);
    return 0;
  }
  if (num_awaited > 0 && timeout_ns > 0)
    result = io_uring_submit_and_wait_timeout(&ring_, &first, num_awaited, &timeout, nullptr);
  else
    result = io_uring_submit_and_wait(&ring_, num_awaited);
  // What was accepted, whatever the wait ended with.
  const size_t num_accepted = queued_.size() - io_uring_sq_ready(&ring_);
  for (size_t i = 0; i < num_accepted; ++i) num_in_flight_ += queued_[i] != kCancelPiece;
  queued_.erase(queued_.begin(), queued_.begin() + static_cast<std::ptrdiff_t>(num_accepted));
  return queued_.empty() || num_accepted > 0 ? 0 : -result;
}

std::vector<uint32_t> UringLane::give_up() {
  is_broken_ = true;
  std::erase(queued_, kCancelPiece);
  return std::exchange(queued_, {});
}

bool UringLane::reap(uint32_t* piece, int64_t* result) {
  io_uring_cqe* cqe = nullptr;
  while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
    const uint64_t tag = io_uring_cqe_get_data64(cqe);
    *piece = static_cast<uint32_t>(tag);
    *result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    if (tag == kCancelTag) continue;
    --num_in_flight_;
    return true;
  }
  return false;
}

void UringLane::cancel_all() {
  io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr || is_broken_) return;
  io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
  io_uring_sqe_set_data64(sqe, kCancelTag);
  queued_.push_back(kCancelPiece);
}

}  // namespace hicache
