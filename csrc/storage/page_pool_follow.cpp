// What other processes did to a PagePool, as their indexes tell it. The order in which they are
// read does not matter: a tombstone may come before the page that it is about.
#include <fcntl.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <set>
#include <string>

#include "hicache/storage/page_pool.h"

namespace hicache::storage {
namespace {

constexpr char kShardPrefix[] = "shard-";
constexpr size_t kPrefixLength = sizeof(kShardPrefix) - 1;
// The clock of a file system may be as coarse as this: a folder that changed just now may change
// again without a trace.
constexpr int64_t kCoarseNs = 100'000'000;

int64_t ns_of(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

// Whether it is shard-<16 digits>.
bool parse_name(const std::string& text, uint64_t* name) {
  if (text.size() != kPrefixLength + 16 || text.compare(0, kPrefixLength, kShardPrefix) != 0)
    return false;
  if (text.find_first_not_of("0123456789abcdef", kPrefixLength) != std::string::npos) return false;
  *name = std::strtoull(text.c_str() + kPrefixLength, nullptr, 16);
  return true;
}

}  // namespace

class PagePool::Sink final : public IndexSink {
 public:
  Sink(PagePool& pool, Shard& shard) : pool_(pool), shard_(shard) {}
  void restart(uint64_t num_records) override {
    pool_.drop_pages(shard_);
    shard_.segments.reset();
    // At least half of an index is live, or it would have been rewritten.
    pool_.table_.reserve(pool_.table_.num_pages() + num_records / 2);
  }
  void record(const Record& record) override { pool_.apply(shard_, record); }
  void corrupt() override { pool_.stats_.num_corrupt_pages += &shard_ != pool_.own_; }

 private:
  PagePool& pool_;
  Shard& shard_;
};

void PagePool::follow() {
  struct stat folder;
  if (Files::stat(dir_.get(), &folder) == 0) {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int64_t changed_ns = ns_of(folder.st_mtim);
    if (changed_ns != listed_ns_) {
      discover();
      if (ns_of(now) - changed_ns > kCoarseNs) listed_ns_ = changed_ns;
    }
  }
  for (const auto& [name, shard] : shards_)
    if (shard.get() != own_) follow_shard(*shard);
}

void PagePool::discover() {
  std::vector<std::string> entries;
  if (Files::list(dir_.get(), &entries) < 0) return;  // what is known stays
  std::set<uint64_t> names;
  for (const std::string& entry : entries)
    if (uint64_t name; parse_name(entry, &name)) names.insert(name);
  std::vector<uint64_t> gone;
  for (const auto& [name, shard] : shards_)
    if (!names.contains(name) && shard.get() != own_) gone.push_back(name);
  for (const uint64_t name : gone) forget_shard(name);
  for (const uint64_t name : names)
    if (!shards_.contains(name)) add_shard(name);
}

Shard* PagePool::add_shard(uint64_t name) {
  char text[32];
  std::snprintf(text, sizeof(text), "%s%016llx", kShardPrefix,
                static_cast<unsigned long long>(name));
  File dir(files_, files_.open(dir_.get(), text, O_RDONLY | O_DIRECTORY, 0));
  if (!dir || numbered_.size() > UINT16_MAX) return nullptr;
  const auto number = static_cast<uint16_t>(numbered_.size());
  auto shard = std::make_unique<Shard>(Shard{name, number, std::move(dir)});
  numbered_.push_back(shard.get());
  return (shards_[name] = std::move(shard)).get();
}

void PagePool::forget_shard(uint64_t name) {
  const auto found = shards_.find(name);
  if (found == shards_.end()) return;
  drop_pages(*found->second);
  numbered_[found->second->number] = nullptr;
  shards_.erase(found);
}

void PagePool::follow_shard(Shard& shard) {
  Sink sink(*this, shard);
  const int error = shard.index.follow(files_, shard.dir.get(), config_.format, shard.name, sink);
  if (error == -ENOENT) drop_pages(shard);
  if (error < 0) return;
  if (!shard.index.is_sound() || shard.segments) return;
  File dir(files_, files_.open(shard.dir.get(), ".", O_RDONLY | O_DIRECTORY, 0));
  if (!dir) return;
  const Access access = &shard == own_ ? Access::kWrite : Access::kRead;
  shard.segments = std::make_shared<Segments>(files_, engine_, std::move(dir), access, slot_bytes_,
                                              shard.index.header().segment_bytes);
}

void PagePool::drop_pages(Shard& shard) {
  if (shard.newest_generation == 0) return;
  table_.for_each([&](PageId id) {
    if (table_[id].shard == shard.number) discard(id);
  });
  for (auto& [grave, burial] : graves_)
    if (grave.shard == shard.name) burial.is_needed = false;
}

void PagePool::apply(Shard& shard, const Record& record) {
  switch (record.kind) {
    case RecordKind::kPage: return apply_page(shard, record);
    case RecordKind::kTombstone: return apply_tombstone(shard, record);
    case RecordKind::kCleared: return apply_cleared(shard, record);
  }
}

void PagePool::apply_page(Shard& shard, const Record& record) {
  shard.newest_generation = std::max(shard.newest_generation, record.generation);
  const auto cleared = cleared_.find(shard.name);
  if (cleared != cleared_.end() && record.generation <= cleared->second) return;
  const auto grave = graves_.find({shard.name, record.generation});
  const PageId id =
      table_.insert(record.key, shard.number, record.slot, record.generation, record.checksum);
  if (&shard == own_) table_.touch(id);
  if (grave == graves_.end()) return;
  grave->second.is_needed = true;
  if (&shard == own_)
    bury(id);
  else
    discard(id);
}

void PagePool::apply_tombstone(Shard& shard, const Record& record) {
  const auto found = shards_.find(record.shard);
  Shard* const target = found == shards_.end() ? nullptr : found->second.get();
  const PageId id = target == nullptr ? kNoPage : find_at(record.key, *target, record.generation);
  const Grave grave{record.shard, record.generation};
  if (record.shard == shard.name) {
    graves_.erase(grave);
    if (id != kNoPage) discard(id);
    return;
  }
  const auto [burial, is_new] = graves_.try_emplace(grave, Burial{record.key, record.slot, false});
  if (id == kNoPage) return;
  burial->second.is_needed = true;
  if (target == own_)
    bury(id);
  else
    discard(id);
}

void PagePool::apply_cleared(Shard& shard, const Record& record) {
  uint64_t& last = cleared_[record.shard];
  if (record.generation <= last) return;
  last = record.generation;
  const auto found = shards_.find(record.shard);
  if (found == shards_.end()) return;
  const Shard& target = *found->second;
  const bool is_news_to_us = &target == own_ && &shard != own_;
  if (is_news_to_us)
    untold_.push_back(make_record(RecordKind::kCleared, target.name, 0, record.generation));
  table_.for_each([&](PageId id) {
    if (table_[id].shard != target.number || table_[id].generation > record.generation) return;
    if (is_news_to_us)
      bury_quietly(id);
    else
      discard(id);
  });
}

PageId PagePool::find_at(const PageKey& key, const Shard& shard, uint64_t generation) const {
  PageId id = table_.find(key);
  while (id != kNoPage && (table_[id].shard != shard.number || table_[id].generation != generation))
    id = table_.find(key, id);
  return id;
}

}  // namespace hicache::storage
