// One ring of the kernel, and what is registered with it. Used by one thread at a time.
#pragma once

#include <liburing.h>

#include <unordered_map>
#include <utility>
#include <vector>

#include "io_batch.h"

namespace hicache {

// What an engine was told to register, by slot of the kernel's tables. An id is never used again:
// the same descriptor or address may come back as another file or memory. 0: nothing.
struct IoTables {
  struct File {
    uint64_t id = 0;
    int file = -1;
  };
  struct Buffer {
    uint64_t id = 0;
    void* owner = nullptr;  // the range that this is a slice of
    std::byte* begin = nullptr;
    size_t num_bytes = 0;
  };
  std::vector<File> files;
  std::vector<Buffer> buffers;
};

class UringLane {
 public:
  static constexpr unsigned kDepth = 128;  // calls in flight; their bytes are bounded before that

  // Error(kStorage) with the kernel's reason if it gives no ring.
  UringLane();
  ~UringLane();
  UringLane(const UringLane&) = delete;
  UringLane& operator=(const UringLane&) = delete;

  // Registers what is new in the tables and drops what left them. Returns 0, or the errno for the
  // last buffer that was refused, which is then used as any other memory.
  int sync(const IoTables& tables);

  unsigned num_in_flight() const { return num_in_flight_; }
  bool is_full() const { return num_in_flight_ + queued_.size() >= kDepth; }
  // Queues a call for the next submit(). Not when full.
  void start(const IoBatch& batch, uint32_t piece);
  // Hands the queued calls to the kernel and, with num_awaited, waits for as many of all to end, at
  // most timeout_ns (0: for ever). 0, or the errno for which the kernel took none of them.
  int submit(unsigned num_awaited, int64_t timeout_ns);
  // The pieces that the kernel would not take. From then on the lane only waits.
  std::vector<uint32_t> give_up();
  bool is_broken() const { return is_broken_; }
  // The next call that ended; false: none so far.
  bool reap(uint32_t* piece, int64_t* result);
  // Queues a plea to give up what is in flight, which the kernel may not be able to.
  void cancel_all();

 private:
  void sync_file(int slot, const IoTables::File& file);
  int sync_buffer(int slot, const IoTables::Buffer& buffer);
  int fixed_slot(const iovec& iov) const;  // of the registered buffer it lies in; -1: none

  io_uring ring_{};
  unsigned num_in_flight_ = 0;
  bool is_broken_ = false;
  bool has_files_ = false;
  bool has_buffers_ = false;
  std::vector<uint32_t> queued_;              // pieces, oldest first
  std::vector<IoTables::File> files_;         // by slot, as last told
  std::vector<uint64_t> buffers_;             // their ids, by slot, as last told
  std::unordered_map<int, int> slots_;        // of descriptors
  std::vector<std::pair<iovec, int>> fixed_;  // memory and its slot
};

}  // namespace hicache
