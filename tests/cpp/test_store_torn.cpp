// Power failures without processes: of the calls that were not synced, some never happened, and
// some only in part. What was told stored in the modes kBatch and kPage is there, nothing is ever
// wrong.
//
//   test_store_torn [num_failures] [seed]
#include <unistd.h>

#include <map>
#include <set>

#include "store_cases.h"

namespace {

using namespace store_cases;

constexpr uint64_t kNumKeys = 40;
constexpr uint64_t kSector = 512;

// Real files, and what it takes to undo every write that is not synced. A folder forgets a name
// that was renamed and not synced; the size of a file is that of the last sync, or the last one.
class TornFiles : public Files {
 public:
  int64_t write(int file, const void* from, size_t num_bytes, uint64_t offset) override {
    struct stat found;
    EXPECT(Files::stat(file, &found) == 0);
    remember(file, found);
    Undo undo{found.st_ino, offset, std::vector<char>(num_bytes)};
    const ssize_t num_old =
        ::pread(reader(file, found.st_ino), undo.old.data(), num_bytes, static_cast<off_t>(offset));
    EXPECT(num_old >= 0);  // behind the end: zeros
    undos_.push_back(std::move(undo));
    return Files::write(file, from, num_bytes, offset);
  }
  int allocate(int file, uint64_t offset, uint64_t num_bytes) override {
    struct stat found;
    EXPECT(Files::stat(file, &found) == 0);
    remember(file, found);
    return Files::allocate(file, offset, num_bytes);
  }
  int sync_data(int file) override {
    struct stat found;
    EXPECT(Files::stat(file, &found) == 0);
    std::erase_if(undos_, [&](const Undo& undo) { return undo.inode == found.st_ino; });
    sizes_.erase(found.st_ino);
    if (S_ISDIR(found.st_mode)) renames_.erase(found.st_ino);
    return 0;
  }
  int sync(int file) override { return sync_data(file); }
  int rename(int dir, const char* from, const char* to) override {
    struct stat found;
    EXPECT(Files::stat(dir, &found) == 0);
    ::unlinkat(dir, kSaved, 0);
    if (::linkat(dir, to, dir, kSaved, 0) == 0 && !renames_.contains(found.st_ino))
      renames_[found.st_ino] = {::dup(dir), to};
    return Files::rename(dir, from, to);
  }

  void lose_power(std::mt19937_64& random) {
    const uint64_t kept = random() % 5;  // of four
    for (size_t i = undos_.size(); i-- > 0;) {
      const Undo& undo = undos_[i];
      const int fd = readers_.at(undo.inode);
      for (uint64_t at = 0; at < undo.old.size(); at += kSector)
        if (random() % 4 >= kept) {
          const uint64_t length = std::min<uint64_t>(kSector, undo.old.size() - at);
          EXPECT(::pwrite(fd, undo.old.data() + at, length, static_cast<off_t>(undo.offset + at)) ==
                 static_cast<ssize_t>(length));
        }
    }
    for (const auto& [inode, size] : sizes_)
      if (random() % 2) EXPECT(::ftruncate(readers_.at(inode), static_cast<off_t>(size)) == 0);
    for (const auto& [inode, rename] : renames_)
      if (random() % 2) ::renameat(rename.dir, kSaved, rename.dir, rename.to.c_str());
    for (const auto& [inode, fd] : readers_) ::close(fd);
    for (const auto& [inode, rename] : renames_) ::close(rename.dir);
    undos_.clear();
    sizes_.clear();
    renames_.clear();
    readers_.clear();
  }

 private:
  static constexpr const char* kSaved = ".before-rename";
  struct Undo {
    ino_t inode;
    uint64_t offset;
    std::vector<char> old;
  };
  struct Rename {
    int dir;
    std::string to;
  };
  // A descriptor of its own, without O_DIRECT, that outlives the store's.
  int reader(int file, ino_t inode) {
    if (const auto known = readers_.find(inode); known != readers_.end()) return known->second;
    const std::string path = "/proc/self/fd/" + std::to_string(file);
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT(fd >= 0);
    return readers_[inode] = fd;
  }
  void remember(int file, const struct stat& found) {
    reader(file, found.st_ino);
    sizes_.try_emplace(found.st_ino, found.st_size);
  }

  std::vector<Undo> undos_;
  std::map<ino_t, off_t> sizes_;  // before what is not synced
  std::map<ino_t, Rename> renames_;
  std::map<ino_t, int> readers_;
};

void fail_power_again_and_again(uint64_t seed, int num_failures) {
  std::mt19937_64 random(seed);
  const Folder folder;
  std::set<uint64_t> stored;  // told so, and not removed since
  const Durability modes[] = {Durability::kNone, Durability::kBatch, Durability::kPage};
  for (int i = 0; i < num_failures; ++i) {
    TornFiles files;
    PlainEngine engine(files);
    PoolConfig config = config_of(modes[random() % 3]);
    config.slack_records = 8;
    bool is_durable = config.durability != Durability::kNone;
    {
      PagePool pool(files, engine, open_dir(files, folder.path), config);
      for (uint64_t op = random() % 40; op > 0; --op) {
        Numbers numbers;
        for (uint64_t n = 1 + random() % 8; n > 0; --n) numbers.push_back(random() % kNumKeys);
        if (random() % 3 != 0) {
          EXPECT(all(put(pool, numbers)));
          if (is_durable) stored.insert(numbers.begin(), numbers.end());
        } else {
          pool.remove(keys_of(numbers));
          for (const uint64_t number : numbers) stored.erase(number);
        }
        EXPECT(all(get(pool, Numbers(stored.begin(), stored.end()))));
      }
    }
    files.lose_power(random);
    Files healthy;
    PlainEngine plain(healthy);
    Numbers numbers;
    for (uint64_t number = 0; number < kNumKeys; ++number) numbers.push_back(number);
    {
      PagePool pool(healthy, plain, open_dir(healthy, folder.path), config);
      const std::vector<bool> is_read = get(pool, numbers);  // aborts on wrong bytes
      for (const uint64_t number : stored) EXPECT(is_read[number]);
      EXPECT(all(put(pool, {0, 1})) && all(get(pool, {0, 1})));
    }
    // A page whose tombstone was lost may have come back for a while: what is healed counts.
    PagePool pool(healthy, plain, open_dir(healthy, folder.path), config);
    const std::vector<bool> is_read = get(pool, numbers);
    for (const uint64_t number : stored) EXPECT(is_read[number]);
    EXPECT(is_read[0] && is_read[1] && pool.stats().num_corrupt_pages == 0);
    for (const uint64_t number : numbers)
      if (is_read[number]) stored.insert(number);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int num_failures = argc > 1 ? std::atoi(argv[1]) : 500;
  uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  constexpr int kLifeOfFolder = 25;
  for (int done = 0; done < num_failures; done += kLifeOfFolder, ++seed) {
    std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
    fail_power_again_and_again(seed, kLifeOfFolder);
  }
  return 0;
}
