// The pages of one pool and namespace, in a folder that processes share: one writer per shard, and
// everybody reads all shards.
//
//   <folder>/shard-<16 hex digits>/lock, index, 00000000.pages, 00000001.pages, ...
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "hicache/storage/index_follower.h"
#include "hicache/storage/io_engine.h"
#include "hicache/storage/page_io.h"
#include "hicache/storage/page_table.h"
#include "hicache/storage/segments.h"
#include "hicache/storage/shard_writer.h"
#include "hicache/storage/slots.h"

namespace hicache::storage {

// When a written page survives a power loss. A killed process loses no page that was told written.
enum class Durability {
  kNone,   // when the kernel gets round to it; a torn page is found by its checksum
  kBatch,  // before its call returns: one sync for all
  kPage    // likewise, and one page after the other
};

struct PoolConfig {
  PageFormat format;
  Durability durability = Durability::kNone;
  uint64_t segment_bytes = 1u << 30;
  uint64_t max_bytes = UINT64_MAX;  // of the segments of the shard that this process writes
  uint64_t slack_records = 1024;    // an index is rewritten with so many more than twice what lives
};

struct PoolStats {
  uint64_t num_pages = 0;  // different keys
  uint64_t num_read_pages = 0, num_missed_pages = 0, num_written_pages = 0;
  uint64_t num_corrupt_pages = 0;  // pages, and records of an index, that are not what was written
  uint64_t num_read_errors = 0, num_write_errors = 0;
  uint64_t num_evicted_pages = 0;
  uint64_t num_refused_pages = 0;  // for which the quota had no room: all of it was in use
  uint64_t segment_bytes = 0;      // that our shard takes on the disk
  uint64_t table_bytes = 0;        // of memory
};

// A shard as this process knows it.
struct Shard {
  uint64_t name;
  uint16_t number;  // that this process gave it; another one when it becomes ours
  File dir;
  IndexFollower index{};
  uint64_t newest_generation = 0;
  std::shared_ptr<Segments> segments{};  // as soon as the index says how large they are
};

class PagePool;

// Some pages of one pool, as a part of a batch of several pools.
struct PoolPart {
  PagePool* pool;
  std::span<const PageKey> keys;
  std::byte* const* pages;
  bool* is_done;           // [keys.size()]: read, or stored
  bool* is_new = nullptr;  // of a write, if asked for: stored by it; a key that comes twice, once
};

// Thread-safe. No page is ever delivered that is not the page of its key; whatever is in the way of
// one is told by a false for it.
class PagePool {
 public:
  // `dir`: the folder. Throws Error(kStorage) if a page is larger than a segment, or the quota
  // smaller than a page. `files` and `engine` outlive it.
  PagePool(Files& files, IoEngine& engine, File dir, const PoolConfig& config);

  void find(std::span<const PageKey> keys, bool* is_there);
  // The pools have one engine, which gets all pages in one batch.
  static void read(std::span<const PoolPart> parts, const IoLimit& limit);
  // First value stays. The keys of a part are in the order of a chain: what comes later is evicted
  // earlier. A page is found no sooner than those of the parts before.
  static void write(std::span<const PoolPart> parts, const IoLimit& limit);
  size_t remove(std::span<const PageKey> keys);
  // 0, or -errno where nobody could be told.
  int clear();
  PoolStats stats();
  // The errno that made it read-only, 0 while it is not.
  int failure() const { return failure_; }

 private:
  class Sink;
  struct Reading;
  struct Batch;
  // Pages of other shards that somebody dropped who does not own them, as long as their owners have
  // not done so too.
  struct Grave {
    uint64_t shard, generation;
    bool operator==(const Grave&) const = default;
  };
  struct GraveHash {
    size_t operator()(const Grave& grave) const { return grave.shard ^ grave.generation; }
  };
  struct Burial {
    PageKey key;
    uint32_t slot;
    bool is_needed;  // the page's record is in the index of its owner
  };

  // What others did; page_pool_follow.cpp. With the table lock.
  void follow();
  void discover();
  void follow_shard(Shard& shard);
  Shard* add_shard(uint64_t name);
  void forget_shard(uint64_t name);
  void drop_pages(Shard& shard);
  void apply(Shard& shard, const Record& record);
  void apply_page(Shard& shard, const Record& record);
  void apply_tombstone(Shard& shard, const Record& record);
  void apply_cleared(Shard& shard, const Record& record);
  PageId find_at(const PageKey& key, const Shard& shard, uint64_t generation) const;

  // The shard that is ours; page_pool_own.cpp. With the append lock.
  int acquire();
  int take_shard(uint64_t name);
  int create_shard();
  int adopt(uint64_t name, std::unique_ptr<ShardWriter> writer);
  bool settle();
  void cut_to_quota();
  bool flush();
  void compact_if_long(bool is_damaged);
  std::vector<Record> live_records();
  void fail(int error);

  // The end of a page; page_pool.cpp. With the table lock.
  void bury(PageId id);          // dead on the disk too, with the next flush()
  void bury_quietly(PageId id);  // ours; another record says so
  void discard(PageId id);       // only here
  void unpin(PageId id);

  // page_pool_read.cpp
  void begin(Reading& reading);
  bool end(Reading& reading);
  bool drop_damaged(std::span<const PageEntry> damaged, std::span<const int> errors);

  // Steps of a write; page_pool_write.cpp.
  static void write_batches(std::span<Batch> batches, const IoLimit& limit);
  void write_singly(const PoolPart& part, const IoLimit& limit);
  void prepare(Batch& batch);
  void classify(Batch& batch);
  void make_room(uint32_t wanted);
  void move_in(Batch& batch);
  int sync_segments(const Batch& batch);
  void publish(Batch& batch);
  void finish(Batch& batch);
  void touch_chain(std::span<const PageId> chain);

  Files& files_;
  IoEngine& engine_;
  const File dir_;
  const PoolConfig config_;
  const uint64_t slot_bytes_;
  const uint32_t max_slots_;
  PageIo io_;
  std::atomic<int> failure_{0};

  std::mutex append_mutex_;  // of what we write to our shard; taken before the other
  std::unique_ptr<ShardWriter> writer_;

  std::mutex table_mutex_;  // of all that follows
  PageTable table_;
  std::map<uint64_t, std::unique_ptr<Shard>> shards_;  // by name
  std::vector<Shard*> numbered_;                       // nullptr: gone
  Shard* own_ = nullptr;
  FreeSlots slots_;  // of our shard
  uint64_t last_generation_ = 0;
  int64_t listed_ns_ = -1;  // when the folder had last changed when it was listed
  std::unordered_map<Grave, Burial, GraveHash> graves_;
  std::unordered_map<uint64_t, uint64_t> cleared_;  // by shard: the last generation that is dead
  // What our index must tell before anything else, and the pages whose slots wait for that.
  std::vector<Record> untold_;
  std::vector<PageId> untold_pages_;
  PoolStats stats_;
};

// Trouble of this process or moment (no descriptors, no memory), not of the disk.
bool is_passing(int error);

}  // namespace hicache::storage
