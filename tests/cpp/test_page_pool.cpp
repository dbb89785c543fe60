// A folder of pages against a set of numbers: three pools in one process, with and without a quota.
#include <algorithm>
#include <memory>
#include <set>
#include <thread>

#include "store_cases.h"

namespace {

using namespace store_cases;

constexpr uint64_t kNumKeys = 40;
constexpr uint64_t kNoQuota = 1 << 20;  // slots

class Fuzz {
 public:
  Fuzz(uint64_t seed, uint64_t max_slots) : random_(seed), max_slots_(max_slots) {
    for (auto& pool : pools_) pool = open();
  }

  void step() {
    PagePool& pool = *pools_[random_() % 3];
    Numbers numbers;
    for (uint64_t n = random_() % 9; n > 0; --n) numbers.push_back(random_() % kNumKeys);
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2: write(pool, numbers); break;
      case 3: remove(pool, numbers); break;
      case 4: reopen(); break;
      case 5:
        if (random_() % 10 == 0) clear(pool);
        break;
      default: read(pool, numbers);
    }
    check(*pools_[random_() % 3]);
  }

 private:
  bool has_quota() const { return max_slots_ < kNoQuota; }

  std::unique_ptr<PagePool> open() {
    const Durability modes[] = {Durability::kNone, Durability::kBatch, Durability::kPage};
    PoolConfig config = config_of(modes[random_() % 3], max_slots_ * kPageSize);
    config.slack_records = random_() % 2 ? 4 : 1024;
    return std::make_unique<PagePool>(files_, engine_, open_dir(files_, folder_.path), config);
  }

  void write(PagePool& pool, const Numbers& numbers) {
    EXPECT(all(put(pool, numbers)));
    held_.insert(numbers.begin(), numbers.end());
    EXPECT(all(get(pool, numbers)));
  }

  void remove(PagePool& pool, const Numbers& numbers) {
    size_t num_held = 0;
    for (const uint64_t number : numbers) num_held += held_.erase(number);
    const size_t num_removed = pool.remove(keys_of(numbers));
    EXPECT(has_quota() ? num_removed <= num_held : num_removed == num_held);
  }

  void read(PagePool& pool, const Numbers& numbers) {
    const std::vector<bool> is_read = get(pool, numbers);
    for (size_t i = 0; i < numbers.size(); ++i) {
      EXPECT(!is_read[i] || held_.contains(numbers[i]));
      EXPECT(is_read[i] || has_quota() || !held_.contains(numbers[i]));
    }
  }

  void clear(PagePool& pool) {
    EXPECT(pool.clear() == 0);
    held_.clear();
  }

  void reopen() {
    std::unique_ptr<PagePool>& pool = pools_[random_() % 3];
    pool.reset();
    pool = open();
  }

  void check(PagePool& pool) {
    const PoolStats stats = pool.stats();
    EXPECT(stats.num_corrupt_pages == 0 && stats.num_read_errors == 0);
    EXPECT(stats.num_write_errors == 0 && pool.failure() == 0);
    EXPECT(stats.segment_bytes <= max_slots_ * kPageSize);
    if (!has_quota()) EXPECT(open()->stats().num_pages == held_.size());
  }

  std::mt19937_64 random_;
  const uint64_t max_slots_;
  Folder folder_;
  Files files_;
  PlainEngine engine_{files_};
  std::unique_ptr<PagePool> pools_[3];
  std::set<uint64_t> held_;
};

void test_against_a_set() {
  for (uint64_t seed = 0; seed < 10; ++seed)
    for (const uint64_t max_slots : {kNoQuota, uint64_t{12}, uint64_t{21}}) {
      std::fprintf(stderr, "seed %d, %d slots\n", static_cast<int>(seed),
                   static_cast<int>(max_slots));
      Fuzz fuzz(seed, max_slots);
      for (int i = 0; i < 200; ++i) fuzz.step();
    }
}

// Pages of a million keys; the bound of the memory is that of the issue: 96 bytes for each.
void test_the_table_is_small() {
  PageTable table;
  for (const uint32_t num_pages : {1'000u, 100'000u, 400'000u}) {
    for (auto i = static_cast<uint32_t>(table.num_pages()); i < num_pages; ++i)
      table.insert(key_of(i), 0, i, i, {});
    EXPECT(table.num_pages() == num_pages && table.num_bytes() <= 96u * num_pages + 100'000u);
  }
  for (uint32_t i = 0; i < 400'000; i += 7) {
    const PageId id = table.find(key_of(i));
    EXPECT(id != kNoPage && table[id].slot == i);
    table.take_out(id);
    table.forget(id);
    EXPECT(table.find(key_of(i)) == kNoPage);
  }
  for (uint32_t i = 0; i < 400'000; ++i) EXPECT((table.find(key_of(i)) == kNoPage) == (i % 7 == 0));
}

// A disk that has no room, or fails: everything that was there stays.
class FailingFiles : public Files {
 public:
  int64_t write(int file, const void* from, size_t num_bytes, uint64_t offset) override {
    return error != 0 ? -error : Files::write(file, from, num_bytes, offset);
  }
  int allocate(int file, uint64_t offset, uint64_t num_bytes) override {
    return allocate_error != 0 ? -allocate_error : Files::allocate(file, offset, num_bytes);
  }
  int sync_data(int file) override {
    return sync_error != 0 ? -sync_error : Files::sync_data(file);
  }
  int error = 0, allocate_error = 0, sync_error = 0;
};

void test_a_disk_that_fails(int FailingFiles::* which, int error) {
  const Folder folder;
  FailingFiles files;
  PlainEngine engine(files);
  {
    PagePool pool(files, engine, open_dir(files, folder.path), config_of(Durability::kBatch));
    EXPECT(all(put(pool, {0, 1, 2})));
    Numbers many, others;
    for (uint64_t i = 0; i < 250; ++i) many.push_back(i);
    for (uint64_t i = 1000; i < 1200; ++i) others.push_back(i);
    EXPECT(all(put(pool, others)));  // of 1 MiB that was taken ahead, little is left
    files.*which = error;
    // Where there is no more room, what there is gets used.
    const std::vector<bool> is_stored = put(pool, many);
    EXPECT(is_stored[0] && is_stored[1] && is_stored[2] && pool.failure() == error);
    EXPECT(which == &FailingFiles::allocate_error ? !is_stored[249] : !is_stored[3]);
    EXPECT(pool.stats().num_write_errors > 0);
    files.*which = 0;
    EXPECT(!put(pool, {251})[0] && pool.failure() == error);  // until it is opened again
    EXPECT(all(get(pool, {0, 1, 2})));
  }
  PagePool pool(files, engine, open_dir(files, folder.path), config_of(Durability::kBatch));
  EXPECT(all(get(pool, {0, 1, 2})) && all(put(pool, {251})) && all(get(pool, {251})));
  EXPECT(pool.failure() == 0);
}

// Readers, writers, removals and evictions at once, for ThreadSanitizer too.
void test_threads() {
  const Folder folder;
  Files files;
  PlainEngine engine(files);
  PagePool pool(files, engine, open_dir(files, folder.path),
                config_of(Durability::kBatch, 24 * kPageSize));
  std::vector<std::thread> threads;
  for (uint64_t seed = 0; seed < 6; ++seed)
    threads.emplace_back([&pool, seed] {
      std::mt19937_64 random(seed);
      for (int i = 0; i < 60; ++i) {
        Numbers numbers;
        for (uint64_t n = 1 + random() % 4; n > 0; --n) numbers.push_back(random() % kNumKeys);
        if (seed < 2)
          put(pool, numbers);
        else if (seed == 2)
          pool.remove(keys_of(numbers));
        else
          get(pool, numbers);  // aborts on wrong bytes
      }
    });
  for (std::thread& thread : threads) thread.join();
  const PoolStats stats = pool.stats();
  EXPECT(stats.num_corrupt_pages == 0 && stats.num_read_errors == 0 && stats.num_write_errors == 0);
  EXPECT(stats.segment_bytes <= 24 * kPageSize && pool.failure() == 0);
  EXPECT(all(put(pool, {0, 1, 2})) && all(get(pool, {0, 1, 2})));
}

// All pools in one batch of the engine, whatever the place and the size of their pages.
void test_several_pools_are_one_submission() {
  class CountingEngine : public PlainEngine {
   public:
    using PlainEngine::PlainEngine;
    void run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
             const IoDone& done) override {
      sizes.push_back(num_requests);
      PlainEngine::run(requests, num_requests, limit, done);
    }
    std::vector<size_t> sizes;
  };
  const Folder folders[3];
  Files files;
  CountingEngine engine(files);
  std::vector<std::unique_ptr<PagePool>> pools;
  for (const uint64_t page_bytes : {kPageSize, uint64_t{1000}, 3 * kPageSize}) {
    PoolConfig config = config_of(Durability::kBatch);
    config.format.page_bytes = page_bytes;
    pools.push_back(std::make_unique<PagePool>(
        files, engine, open_dir(files, folders[pools.size()].path), config));
  }
  std::vector<Page> pages(3 * 4 * 3), copies(pages.size());
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = page_of(i);
  const std::vector<PageKey> keys = keys_of({1, 2, 3, 4});
  bool flags[3][4] = {}, are_new[3][4] = {};
  const auto parts_of = [&](std::vector<Page>& arena, std::byte*(&begins)[3][4]) {
    std::vector<PoolPart> parts;
    for (size_t pool = 0; pool < 3; ++pool) {
      for (size_t i = 0; i < 4; ++i) begins[pool][i] = arena[12 * pool + 3 * i].bytes;
      parts.push_back({pools[pool].get(), keys, begins[pool], flags[pool], are_new[pool]});
    }
    return parts;
  };
  std::byte* begins[3][4];
  PagePool::write(parts_of(pages, begins), IoLimit{});
  EXPECT((engine.sizes == std::vector<size_t>{12}));
  EXPECT(std::count(&are_new[0][0], &are_new[0][0] + 12, true) == 12);
  PagePool::read(parts_of(copies, begins), IoLimit{});
  EXPECT((engine.sizes == std::vector<size_t>{12, 12}));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT(flags[0][i] && copies[3 * i] == pages[3 * i]);
    EXPECT(flags[1][i] &&
           std::memcmp(copies[12 + 3 * i].bytes, pages[12 + 3 * i].bytes, 1000) == 0);
    EXPECT(flags[2][i] && std::memcmp(&copies[24 + 3 * i], &pages[24 + 3 * i], 3 * kPageSize) == 0);
  }
  PagePool::write(parts_of(pages, begins), IoLimit{});
  EXPECT(engine.sizes.size() == 2 && flags[2][3] && !are_new[2][3]);  // nothing to do
}

}  // namespace

int main() {
  test_several_pools_are_one_submission();
  test_threads();
  test_against_a_set();
  test_the_table_is_small();
  test_a_disk_that_fails(&FailingFiles::error, ENOSPC);
  test_a_disk_that_fails(&FailingFiles::error, EIO);
  test_a_disk_that_fails(&FailingFiles::allocate_error, ENOSPC);
  test_a_disk_that_fails(&FailingFiles::sync_error, EIO);
  return 0;
}
