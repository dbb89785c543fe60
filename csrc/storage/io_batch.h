// The requests of one run() as system calls: neighbours joined, giants cut, failures taken apart.
#pragma once

#include <deque>
#include <utility>
#include <vector>

#include "hicache/storage/io_engine.h"

namespace hicache {

// One system call's worth: whole requests that are adjacent in their file, or a part of one.
struct IoPiece {
  IoOp op;
  int file;
  uint64_t offset;     // of what is left
  uint64_t num_bytes;  // left
  uint32_t first_iov;  // of what is left
  uint32_t num_iov;
  uint32_t first_request;  // among the sorted ones
  uint32_t num_requests;
  int num_retries = 0;
};

// Not thread-safe: an engine guards it. Iovecs and pieces stay where they are once made.
class IoBatch {
 public:
  IoBatch(const IoRequest* requests, size_t num_requests, uint64_t max_piece_bytes);

  bool has_ready() const { return !ready_.empty(); }
  uint32_t next() const { return ready_.front(); }  // the piece to start; reads before writes
  void pop() { ready_.pop_front(); }
  // A piece that was popped goes back to the front.
  void put_back(uint32_t piece) { ready_.push_front(piece); }
  const IoPiece& piece(uint32_t index) const { return pieces_[index]; }
  const iovec* iov(uint32_t index) const { return &iovs_[pieces_[index].first_iov]; }
  IoCall call(uint32_t index) const;

  // What the system call of a piece returned: bytes or -errno. What is left of it is ready again: a
  // short one goes on, and of a failed one of several requests each is tried by itself.
  void finish(uint32_t index, int64_t result);
  // Everything that is ready ends with this errno.
  void stop(int error);

  bool is_over() const { return num_left_ == 0; }
  bool has_ended() const { return !ended_.empty(); }
  // (position, error) of requests, in the order in which they ended.
  using Ended = std::vector<std::pair<uint32_t, int>>;
  Ended take_ended() { return std::exchange(ended_, {}); }

 private:
  struct State {
    const IoRequest* request;
    uint64_t num_bytes;
    uint32_t num_pieces = 0;  // not over
    int error = 0;
  };

  void add(uint32_t index, uint64_t max_piece_bytes);
  bool joins_last(uint32_t index, uint64_t max_piece_bytes) const;
  void start_piece(uint32_t index, uint64_t offset);
  void append(std::byte* begin, uint64_t num_bytes);
  void advance(IoPiece& piece, uint64_t num_bytes);
  void end(const IoPiece& piece, int error);

  std::vector<State> requests_;  // sorted
  std::vector<iovec> iovs_;
  std::deque<IoPiece> pieces_;
  std::deque<uint32_t> ready_;
  Ended ended_;
  size_t num_left_;  // requests
};

// There is I/O in flight to the caller's buffers: it cannot leave by an exception of its own.
inline void tell(const IoBatch::Ended& ended, const IoDone& done) noexcept {
  for (const auto& [position, error] : ended) done(position, error);
}

}  // namespace hicache
