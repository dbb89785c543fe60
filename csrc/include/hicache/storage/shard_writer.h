// The one process that writes to a shard, as long as it holds the lock.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hicache/storage/files.h"
#include "hicache/storage/index_follower.h"
#include "hicache/storage/index_format.h"

namespace hicache::storage {

// A key, a place and what is to be told of them; position and check are filled in by the index.
Record make_record(RecordKind kind, uint64_t shard, uint32_t slot, uint64_t generation,
                   const PageKey& key = {}, const Checksum& checksum = {});

// Not thread-safe.
class ShardWriter {
 public:
  // Takes the lock of the shard in this folder. 0, or -errno: -EWOULDBLOCK where another has it.
  static int take(Files& files, File dir, uint64_t shard, std::unique_ptr<ShardWriter>* out);

  // Begins a new index with these records, in place of what is there; readers notice. 0 or -errno,
  // and then the old one is as it was.
  int rewrite(const PageFormat& format, uint64_t segment_bytes, std::vector<Record> records);
  // Goes on with the index that `follower` has read to its end.
  int go_on(const IndexFollower& follower);

  // Returns how many were appended, whole, before *error: 0 or -errno. Readers may have seen them.
  size_t append(std::vector<Record> records, int* error);
  // All that was appended is durable then. 0 or -errno.
  int sync();

  uint64_t shard() const { return shard_; }
  uint64_t num_records() const { return num_records_; }
  const IndexHeader& header() const { return header_; }

 private:
  ShardWriter(Files& files, File dir, File lock, uint64_t shard)
      : files_(files), dir_(std::move(dir)), lock_(std::move(lock)), shard_(shard) {}

  Files& files_;
  const File dir_;
  const File lock_;
  const uint64_t shard_;
  File index_;
  IndexHeader header_{};
  uint64_t num_records_ = 0;
  bool is_synced_ = false;
};

}  // namespace hicache::storage
