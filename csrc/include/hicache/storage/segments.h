// The segment files of a shard: slot n lies in file n / slots_per_segment.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "hicache/storage/files.h"
#include "hicache/storage/io_engine.h"

namespace hicache::storage {

enum class Access { kRead, kWrite };

// Thread-safe, but for grow() and cut_to(), which are for the one writer.
class Segments {
 public:
  Segments(Files& files, IoEngine& engine, File dir, Access access, uint64_t slot_bytes,
           uint64_t segment_bytes);
  ~Segments();
  Segments(const Segments&) = delete;
  Segments& operator=(const Segments&) = delete;

  struct Place {
    int file;  // stays open as long as this object
    uint64_t offset;
  };
  // 0, or -errno.
  int find(uint32_t slot, Place* place);
  bool are_neighbours(uint32_t slot, uint32_t next) const {
    return next == slot + 1 && next % slots_per_segment_ != 0;
  }

  // How many slots the files have room for, without a gap, and whether what comes next is no file.
  uint32_t num_slots(bool* is_foreign = nullptr);
  // More room, ahead of what is asked for, up to `most`; returns the new num_slots() and *error, 0
  // or -errno. A new file is certain to be found again if `is_durable`.
  uint32_t grow(uint32_t wanted, uint32_t most, bool is_durable, int* error);
  // Gives back what is behind that.
  int cut_to(uint32_t num_slots);

 private:
  int open_segment(uint32_t segment, int flags, File* file);
  uint64_t bytes_of(uint32_t segment, bool* is_foreign = nullptr);
  int extend(uint32_t from, uint32_t to, bool is_durable);  // in one file

  Files& files_;
  IoEngine& engine_;
  const File dir_;
  const Access access_;
  const uint64_t slot_bytes_;
  const uint32_t slots_per_segment_;
  std::mutex mutex_;
  std::unordered_map<uint32_t, File> open_;  // by segment; those that were used
};

}  // namespace hicache::storage
