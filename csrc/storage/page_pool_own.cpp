// The shard that a PagePool writes: taking one, telling its index, keeping both short.
#include <fcntl.h>

#include <cerrno>
#include <ctime>
#include <random>

#include "hicache/storage/page_pool.h"

namespace hicache::storage {
namespace {

constexpr uint16_t kNobody = UINT16_MAX;

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

// A device that answers so does not get better by trying every page.
bool is_fatal(int error) {
  return error == ENOSPC || error == EDQUOT || error == EIO || error == EROFS || error == EACCES ||
         error == EPERM;
}

}  // namespace

void PagePool::fail(int error) {
  int none = 0;
  if (is_fatal(error)) failure_.compare_exchange_strong(none, error);
}

int PagePool::acquire() {
  if (writer_) return 0;
  std::vector<uint64_t> names;
  {
    const std::lock_guard table(table_mutex_);
    follow();
    for (const auto& [name, shard] : shards_)
      if (!shard->index.is_foreign()) names.push_back(name);
  }
  for (const uint64_t name : names)
    if (take_shard(name) == 0) return 0;
  return create_shard();
}

int PagePool::take_shard(uint64_t name) {
  File dir;
  {
    const std::lock_guard table(table_mutex_);
    const auto found = shards_.find(name);
    if (found == shards_.end() && add_shard(name) == nullptr) return -ENOENT;
    dir = File(files_, files_.open(shards_[name]->dir.get(), ".", O_RDONLY | O_DIRECTORY, 0));
    if (!dir) return dir.get();
  }
  std::unique_ptr<ShardWriter> writer;
  const int error = ShardWriter::take(files_, std::move(dir), name, &writer);
  return error < 0 ? error : adopt(name, std::move(writer));
}

int PagePool::create_shard() {
  std::random_device random;
  for (;;) {
    const uint64_t name = uint64_t{random()} << 32 | random();
    char text[32];
    std::snprintf(text, sizeof(text), "shard-%016llx", static_cast<unsigned long long>(name));
    if (const int error = files_.make_dir(dir_.get(), text, 0700); error < 0) return error;
    if (config_.durability != Durability::kNone)
      if (const int error = files_.sync(dir_.get()); error < 0) return error;
    const int error = take_shard(name);
    if (error != -EWOULDBLOCK) return error;  // else another process took it for a dead one's
  }
}

int PagePool::adopt(uint64_t name, std::unique_ptr<ShardWriter> writer) {
  struct stat index;
  bool is_damaged = false;
  {
    const std::lock_guard table(table_mutex_);
    const int there = Files::stat_in(shards_[name]->dir.get(), kIndexName, &index);
    if (there == -ENOENT) {  // new, or its maker died
      const int error = writer->rewrite(config_.format, config_.segment_bytes, {});
      if (error < 0) return error;
    }
    // Read again from the beginning: what is ours is ranked, and has a number that no read knows.
    forget_shard(name);
    own_ = add_shard(name);
    if (own_ == nullptr) return -EMFILE;
    follow_shard(*own_);
    int error = own_->segments ? writer->go_on(own_->index) : -EINVAL;
    bool is_foreign = false;
    if (error == 0) own_->segments->num_slots(&is_foreign);
    if (is_foreign) error = -EISDIR;  // its pages are read, as far as they go, and left alone
    if (error < 0) {
      own_ = nullptr;
      forget_shard(name);
      add_shard(name);
      return error;
    }
    is_damaged = !settle() || own_->index.num_corrupt() > 0;
    writer_ = std::move(writer);
  }
  cut_to_quota();
  compact_if_long(is_damaged);
  return 0;
}

// Which slots are taken, by the latest record that says so. Returns whether the index and the
// segments fit together.
bool PagePool::settle() {
  last_generation_ = std::max(now_ns(), own_->newest_generation);
  slots_ = FreeSlots();
  uint32_t num_needed = 0;
  for (PageId id = table_.newest(); id != kNoPage; id = table_[id].older)
    num_needed = std::max(num_needed, table_[id].slot + 1);
  uint32_t num_slots = own_->segments->num_slots();
  int error = 0;
  if (num_needed > num_slots)  // a file was lost or cut: what lies behind it is still there
    num_slots = own_->segments->grow(num_needed - num_slots, num_needed, true, &error);
  if (error < 0) fail(-error);
  slots_.grow_to(num_slots);
  const auto occupy = [&](uint32_t slot) {
    if (slot >= slots_.num_slots() || !slots_.is_free(slot)) return false;
    slots_.occupy(slot);
    return true;
  };
  bool is_sound = true;
  for (PageId id = table_.newest(), older; id != kNoPage; id = older) {
    older = table_[id].older;
    if (occupy(table_[id].slot)) continue;
    is_sound = false;
    ++stats_.num_corrupt_pages;
    discard(id);
  }
  for (const PageId id : untold_pages_)
    if (table_[id].shard == own_->number && !occupy(table_[id].slot)) table_[id].shard = kNobody;
  const auto cleared = cleared_.find(own_->name);
  if (cleared != cleared_.end())
    untold_.push_back(make_record(RecordKind::kCleared, own_->name, 0, cleared->second));
  return is_sound;
}

void PagePool::cut_to_quota() {
  {
    const std::lock_guard table(table_mutex_);
    if (slots_.num_slots() <= max_slots_) return;
    for (PageId id = table_.oldest(), newer; id != kNoPage; id = newer) {
      newer = table_[id].newer;
      if (table_[id].slot < max_slots_) continue;
      bury(id);
      ++stats_.num_evicted_pages;
    }
  }
  if (!flush()) return;
  const std::lock_guard table(table_mutex_);
  if (const int error = own_->segments->cut_to(max_slots_); error < 0) return fail(-error);
  slots_.cut_to(max_slots_);
}

bool PagePool::flush() {
  std::vector<Record> records;
  std::vector<PageId> pages;
  {
    const std::lock_guard table(table_mutex_);
    records.swap(untold_);
    pages.swap(untold_pages_);
  }
  if (records.empty()) return true;
  int error = 0;
  const bool is_told = writer_ && writer_->append(records, &error) == records.size();
  const std::lock_guard table(table_mutex_);
  if (is_told) {
    for (const PageId id : pages) unpin(id);
    return true;
  }
  fail(-error);
  ++stats_.num_write_errors;
  // Told with what comes next; until then the slots are not used.
  untold_.insert(untold_.begin(), records.begin(), records.end());
  untold_pages_.insert(untold_pages_.begin(), pages.begin(), pages.end());
  return false;
}

void PagePool::compact_if_long(bool is_damaged) {
  if (!writer_) return;
  std::vector<Record> records;
  {
    const std::lock_guard table(table_mutex_);
    const uint64_t num_taken = slots_.num_slots() - slots_.num_free();
    if (!is_damaged && writer_->num_records() <= 2 * num_taken + config_.slack_records) return;
    records = live_records();
    if (!is_damaged && writer_->num_records() <= 2 * records.size() + config_.slack_records) return;
  }
  const uint64_t segment_bytes = writer_->header().segment_bytes;
  if (const int error = writer_->rewrite(config_.format, segment_bytes, std::move(records));
      error < 0)
    fail(-error);
}

// In the order of use, so that it outlives the process.
std::vector<Record> PagePool::live_records() {
  std::vector<Record> records;
  records.reserve(slots_.num_slots() - slots_.num_free() + graves_.size());
  for (const auto& [name, last] : cleared_)
    if (name != own_->name && shards_.contains(name))
      records.push_back(make_record(RecordKind::kCleared, name, 0, last));
  for (const auto& [grave, burial] : graves_)
    if (burial.is_needed && grave.shard != own_->name)
      records.push_back(make_record(RecordKind::kTombstone, grave.shard, burial.slot,
                                    grave.generation, burial.key));
  for (PageId id = table_.oldest(); id != kNoPage; id = table_[id].newer) {
    const PageEntry& entry = table_[id];
    records.push_back(make_record(RecordKind::kPage, own_->name, entry.slot, entry.generation,
                                  entry.key, entry.checksum));
  }
  return records;
}

}  // namespace hicache::storage
