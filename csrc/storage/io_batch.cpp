#include "io_batch.h"

#include <algorithm>
#include <cerrno>
#include <tuple>

#include "hicache/host_memory.h"

namespace hicache {
namespace {

constexpr uint32_t kMaxIov = 256;  // of a piece; the kernel's own limit is 1024
constexpr int kMaxRetries = 100;   // without progress: EAGAIN, EINTR, less than a sector

uint64_t bytes_of(const IoRequest& request) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < request.num_iov; ++i) total += request.iov[i].iov_len;
  return total;
}

}  // namespace

IoBatch::IoBatch(const IoRequest* requests, size_t num_requests, uint64_t max_piece_bytes)
    : num_left_(num_requests) {
  size_t most_iovs = 0;
  requests_.reserve(num_requests);
  for (size_t i = 0; i < num_requests; ++i) {
    const uint64_t num_bytes = bytes_of(requests[i]);
    requests_.push_back({&requests[i], num_bytes});
    // Once in its first piece, once alone after a failure, and one more for each cut.
    most_iovs += 2 * (requests[i].num_iov + num_bytes / max_piece_bytes + 1);
  }
  std::sort(requests_.begin(), requests_.end(), [](const State& a, const State& b) {
    const auto rank = [](const IoRequest& r) {
      return std::tuple(r.op, r.file, r.offset, r.position);
    };
    return rank(*a.request) < rank(*b.request);
  });
  iovs_.reserve(most_iovs);
  for (uint32_t i = 0; i < num_requests; ++i) add(i, max_piece_bytes);
  for (uint32_t i = 0; i < pieces_.size(); ++i) ready_.push_back(i);
}

bool IoBatch::joins_last(uint32_t index, uint64_t max_piece_bytes) const {
  if (pieces_.empty() || index == 0) return false;
  const IoPiece& last = pieces_.back();
  const IoRequest& request = *requests_[index].request;
  return last.op == request.op && last.file == request.file &&
         last.first_request + last.num_requests == index && requests_[index - 1].num_pieces == 1 &&
         last.offset + last.num_bytes == request.offset &&
         last.num_bytes + requests_[index].num_bytes <= max_piece_bytes &&
         last.num_iov + request.num_iov <= kMaxIov;
}

void IoBatch::add(uint32_t index, uint64_t max_piece_bytes) {
  State& state = requests_[index];
  const IoRequest& request = *state.request;
  if (state.num_bytes == 0) {
    ended_.emplace_back(request.position, 0);
    --num_left_;
    return;
  }
  if (joins_last(index, max_piece_bytes)) {
    ++pieces_.back().num_requests;
    ++state.num_pieces;
  } else {
    start_piece(index, request.offset);
  }
  for (uint32_t i = 0; i < request.num_iov; ++i) {
    auto* begin = static_cast<std::byte*>(request.iov[i].iov_base);
    for (uint64_t left = request.iov[i].iov_len; left > 0;) {
      const IoPiece& last = pieces_.back();
      if (last.num_bytes == max_piece_bytes || last.num_iov == kMaxIov)
        start_piece(index, last.offset + last.num_bytes);
      const uint64_t num_bytes = std::min(left, max_piece_bytes - pieces_.back().num_bytes);
      append(begin, num_bytes);
      begin += num_bytes;
      left -= num_bytes;
    }
  }
}

void IoBatch::start_piece(uint32_t index, uint64_t offset) {
  const IoRequest& request = *requests_[index].request;
  const auto first_iov = static_cast<uint32_t>(iovs_.size());
  pieces_.push_back({request.op, request.file, offset, 0, first_iov, 0, index, 1});
  ++requests_[index].num_pieces;
}

void IoBatch::append(std::byte* begin, uint64_t num_bytes) {
  IoPiece& piece = pieces_.back();
  piece.num_bytes += num_bytes;
  if (piece.num_iov > 0) {
    iovec& last = iovs_.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == begin) {
      last.iov_len += num_bytes;
      return;
    }
  }
  iovs_.push_back({begin, num_bytes});
  ++piece.num_iov;
}

IoCall IoBatch::call(uint32_t index) const {
  const IoPiece& piece = pieces_[index];
  return {piece.op, piece.file, piece.offset, piece.num_bytes};
}

void IoBatch::advance(IoPiece& piece, uint64_t num_bytes) {
  piece.offset += num_bytes;
  piece.num_bytes -= num_bytes;
  while (num_bytes > 0) {
    iovec& iov = iovs_[piece.first_iov];
    if (num_bytes >= iov.iov_len) {
      num_bytes -= iov.iov_len;
      ++piece.first_iov;
      --piece.num_iov;
    } else {
      iov.iov_base = static_cast<std::byte*>(iov.iov_base) + num_bytes;
      iov.iov_len -= num_bytes;
      num_bytes = 0;
    }
  }
}

void IoBatch::finish(uint32_t index, int64_t result) {
  IoPiece& piece = pieces_[index];
  if (result >= static_cast<int64_t>(piece.num_bytes)) return end(piece, 0);
  int error = result < 0 ? static_cast<int>(-result) : 0;
  if (result > 0) {
    // O_DIRECT may stop within a page and cannot go on from there.
    const bool is_aligned = (piece.offset | piece.num_bytes) % kPageBytes == 0;
    const auto moved = static_cast<uint64_t>(result);
    const uint64_t progress = is_aligned ? moved / kPageBytes * kPageBytes : moved;
    if (progress > 0) {
      piece.num_retries = 0;
      advance(piece, progress);
      return ready_.push_front(index);
    }
  }
  const bool may_pass = result > 0 || error == EINTR || error == EAGAIN;
  if (may_pass && ++piece.num_retries <= kMaxRetries) return ready_.push_front(index);
  if (result >= 0) error = piece.op == IoOp::kRead ? ENODATA : EIO;
  if (piece.num_requests == 1) return end(piece, error);
  // One bad page must not take its neighbours with it.
  const IoPiece joined = piece;
  for (uint32_t i = 0; i < joined.num_requests; ++i) {
    const uint32_t request = joined.first_request + i;
    const IoRequest& from = *requests_[request].request;
    requests_[request].num_pieces = 0;
    start_piece(request, from.offset);
    for (uint32_t k = 0; k < from.num_iov; ++k)
      append(static_cast<std::byte*>(from.iov[k].iov_base), from.iov[k].iov_len);
    ready_.push_front(static_cast<uint32_t>(pieces_.size() - 1));
  }
}

void IoBatch::stop(int error) {
  for (const uint32_t index : std::exchange(ready_, {})) end(pieces_[index], error);
}

void IoBatch::end(const IoPiece& piece, int error) {
  for (uint32_t i = 0; i < piece.num_requests; ++i) {
    State& state = requests_[piece.first_request + i];
    if (state.error == 0) state.error = error;
    if (--state.num_pieces > 0) continue;
    ended_.emplace_back(state.request->position, state.error);
    --num_left_;
  }
}

}  // namespace hicache
