// Pages between slots and the memory of callers, straight where O_DIRECT can use that memory.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "hicache/storage/aligned_buffers.h"
#include "hicache/storage/io_engine.h"
#include "hicache/storage/segments.h"

namespace hicache::storage {

struct PageMove {
  Segments* segments;
  uint32_t slot;
  std::byte* page;        // written only by a read
  int error = ECANCELED;  // 0, or the errno for which it was not moved; ECANCELED: past the limit
};

// Told of each page that was moved, while others still are: `bytes` are those of the page. Returns
// whether it is good; of a read, bytes that are not good do not reach the caller's page.
using PageMoved = std::function<bool(size_t index, const std::byte* bytes)>;

class PageIo {
 public:
  PageIo(IoEngine& engine, uint64_t page_bytes, uint64_t slot_bytes)
      : engine_(engine), page_bytes_(page_bytes), slot_bytes_(slot_bytes) {}
  ~PageIo();

  // Pages of one size. Several parts may have the same PageIo.
  struct Part {
    PageIo* io;
    std::span<PageMove> moves;
    PageMoved moved;
  };
  // All parts as one batch of the engine, which is that of all of them; but for pages that have to
  // wait for a buffer.
  static void move(IoOp op, std::span<const Part> parts, const IoLimit& limit);

 private:
  class Submission;

  bool is_straight(const std::byte* page) const;
  AlignedBuffers& bounce();

  IoEngine& engine_;
  const uint64_t page_bytes_, slot_bytes_;
  std::once_flag is_made_;
  std::unique_ptr<AlignedBuffers> bounce_;
};

}  // namespace hicache::storage
