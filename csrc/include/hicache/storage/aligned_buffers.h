// Aligned memory for bytes whose own place O_DIRECT cannot use.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <vector>

#include "hicache/host_memory.h"

namespace hicache {

// A fixed number of buffers of one size, in one arena that begins at 2 MiB and asks for huge pages.
// Thread-safe. Nobody holds a lease when it goes.
class AlignedBuffers {
 public:
  // buffer_bytes > 0, rounded up to 4 KiB; num_buffers > 0. CapacityError without the memory.
  AlignedBuffers(size_t buffer_bytes, size_t num_buffers);

  // Buffers on loan, given back at the end.
  class Lease {
   public:
    Lease(Lease&& other) noexcept : owner_(other.owner_), buffers_(std::move(other.buffers_)) {
      other.buffers_.clear();
    }
    Lease& operator=(Lease&&) = delete;
    ~Lease() { owner_->give_back(buffers_); }
    size_t size() const { return buffers_.size(); }
    std::byte* operator[](size_t i) const { return buffers_[i]; }

   private:
    friend class AlignedBuffers;
    Lease(AlignedBuffers* owner, std::vector<std::byte*> buffers)
        : owner_(owner), buffers_(std::move(buffers)) {}
    AlignedBuffers* owner_;
    std::vector<std::byte*> buffers_;
  };

  // Between 1 and `most` (> 0) of them; waits while there is none. Take one lease at a time, and
  // those of several arenas always in one order: two threads that each hold some and wait for the
  // other's would wait for ever.
  Lease take(size_t most);

  std::byte* data() const { return memory_.data(); }  // the arena, for IoEngine::add_buffer
  size_t num_bytes() const { return memory_.mapped_bytes(); }
  size_t buffer_bytes() const { return buffer_bytes_; }

 private:
  void give_back(const std::vector<std::byte*>& buffers) noexcept;

  const size_t buffer_bytes_;
  HostMemory memory_;
  std::mutex mutex_;
  std::condition_variable given_back_;
  std::vector<std::byte*> free_;  // its capacity is all of them
};

}  // namespace hicache
