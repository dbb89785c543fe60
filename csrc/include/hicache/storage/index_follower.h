// A reader of an index that may still grow, or be rewritten by its owner.
#pragma once

#include <cstdint>

#include "hicache/storage/files.h"
#include "hicache/storage/index_format.h"

namespace hicache::storage {

inline constexpr const char* kIndexName = "index";

// What an index tells, in its order.
class IndexSink {
 public:
  virtual void restart(uint64_t num_records) = 0;  // all that it told before is void
  virtual void record(const Record& record) = 0;
  virtual void corrupt() = 0;  // a record, or the whole index, that is not what was written

 protected:
  ~IndexSink() = default;
};

class IndexFollower {
 public:
  // Tells `sink` what is new. 0, or -errno where it cannot be read just now; -ENOENT: there is
  // none. An index that does not begin as that of this shard is one corrupt record.
  int follow(Files& files, int shard_dir, const PageFormat& format, uint64_t shard,
             IndexSink& sink);

  bool is_sound() const { return is_sound_; }  // begins as ours do
  bool is_foreign() const { return inode_ != 0 && !is_sound_; }
  const IndexHeader& header() const { return header_; }
  uint64_t num_records() const { return num_records_; }  // read, corrupt ones included
  uint64_t num_corrupt() const { return num_corrupt_; }

 private:
  int restart(Files& files, int shard_dir, const PageFormat& format, uint64_t shard,
              IndexSink& sink);
  void refuse(ino_t inode, IndexSink& sink);

  File file_;
  ino_t inode_ = 0;
  bool is_sound_ = false;
  IndexHeader header_{};
  uint64_t num_records_ = 0;
  uint64_t num_corrupt_ = 0;
};

// How many whole records a file of this length has.
inline uint64_t num_whole_records(uint64_t file_bytes) {
  return file_bytes < sizeof(IndexHeader) ? 0 : (file_bytes - sizeof(IndexHeader)) / sizeof(Record);
}

inline uint64_t record_offset(uint64_t position) {
  return sizeof(IndexHeader) + position * sizeof(Record);
}

}  // namespace hicache::storage
