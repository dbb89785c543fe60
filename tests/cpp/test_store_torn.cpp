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
// Power may go in the middle of a call: what comes then changes nothing, whatever it is told.
class TornFiles : public Files {
 public:
  explicit TornFiles(uint64_t num_calls) : num_left_(num_calls) {}
  bool is_out() const { return num_left_ == 0; }
  int open(int dir, const char* name, int flags, mode_t mode) override {
    return (flags & O_CREAT) != 0 && !is_on() ? -EIO : Files::open(dir, name, flags, mode);
  }
  int make_dir(int dir, const char* name, mode_t mode) override {
    return is_on() ? Files::make_dir(dir, name, mode) : -EIO;
  }
  int64_t write(int file, const void* from, size_t num_bytes, uint64_t offset) override {
    struct stat found;
    EXPECT(Files::stat(file, &found) == 0);
    remember(file, found);
    Undo undo{found.st_ino, offset, std::vector<char>(num_bytes)};
    const ssize_t num_old =
        ::pread(reader(file, found.st_ino), undo.old.data(), num_bytes, static_cast<off_t>(offset));
    EXPECT(num_old >= 0);  // behind the end: zeros
    if (!is_on()) return static_cast<int64_t>(num_bytes);
    undos_.push_back(std::move(undo));
    return Files::write(file, from, num_bytes, offset);
  }
  int allocate(int file, uint64_t offset, uint64_t num_bytes) override {
    struct stat found;
    EXPECT(Files::stat(file, &found) == 0);
    remember(file, found);
    if (!is_on()) return 0;
    return Files::allocate(file, offset, num_bytes);
  }
  int truncate(int file, uint64_t num_bytes) override {
    return is_on() ? Files::truncate(file, num_bytes) : 0;
  }
  int sync_data(int file) override {
    if (!is_on()) return 0;
    struct stat found;
    EXPECT(Files::stat(file, &found) == 0);
    std::erase_if(undos_, [&](const Undo& undo) { return undo.inode == found.st_ino; });
    sizes_.erase(found.st_ino);
    if (S_ISDIR(found.st_mode)) renames_.erase(found.st_ino);
    return 0;
  }
  int sync(int file) override { return sync_data(file); }
  int rename(int dir, const char* from, const char* to) override {
    if (!is_on()) return 0;
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

  // Counts the calls that change something.
  bool is_on() {
    if (num_left_ > 0) --num_left_;
    return num_left_ > 0;
  }

  uint64_t num_left_;
  std::vector<Undo> undos_;
  std::map<ino_t, off_t> sizes_;  // before what is not synced
  std::map<ino_t, Rename> renames_;
  std::map<ino_t, int> readers_;
};

Numbers some(std::mt19937_64& random) {
  Numbers numbers;
  for (uint64_t n = 1 + random() % 8; n > 0; --n) numbers.push_back(random() % kNumKeys);
  return numbers;
}

const Numbers& everything() {
  static const Numbers numbers = [] {
    Numbers all_of_them;
    for (uint64_t number = 0; number < kNumKeys; ++number) all_of_them.push_back(number);
    return all_of_them;
  }();
  return numbers;
}

// Told so, and not removed since, in a mode that promises something.
using Stored = std::set<uint64_t>;

void live(PagePool& pool, const TornFiles& files, bool is_durable, Stored& stored,
          std::mt19937_64& random) {
  for (uint64_t op = random() % 40; op > 0; --op) {
    const Numbers numbers = some(random);
    if (random() % 3 != 0) {
      const bool are_stored = all(put(pool, numbers));
      if (files.is_out()) return;
      EXPECT(are_stored);
      if (is_durable) stored.insert(numbers.begin(), numbers.end());
    } else {
      for (const uint64_t number : numbers) stored.erase(number);
      pool.remove(keys_of(numbers));
      if (files.is_out()) return;
    }
    if (random() % 2) EXPECT(all(get(pool, Numbers(stored.begin(), stored.end()))));
    if (files.is_out()) return;
  }
}

// What was stored is there at every open, and from the second one on whatever is. Returns that.
std::vector<bool> check(const std::filesystem::path& folder, const PoolConfig& config,
                        const Stored& stored) {
  Files healthy;
  PlainEngine plain(healthy);
  std::vector<bool> was_read;
  for (int num_opens = 0; num_opens < 3; ++num_opens) {
    PagePool pool(healthy, plain, open_dir(healthy, folder), config);
    const std::vector<bool> is_read = get(pool, everything());  // aborts on wrong bytes
    for (const uint64_t number : stored) EXPECT(is_read[number]);
    for (size_t i = 0; i < was_read.size(); ++i) EXPECT(!was_read[i] || is_read[i]);
    EXPECT(all(put(pool, {0, 1})) && all(get(pool, {0, 1})));
    if (num_opens > 0) was_read = is_read;
  }
  return was_read;
}

// In a folder whose lives are all durable a page that is said to be there is there, so a write that
// finds its key in the index has nothing to do. Elsewhere it may be damaged until it was read.
void fail_power_again_and_again(uint64_t seed, int num_failures) {
  std::mt19937_64 random(seed);
  const Folder folder;
  Stored stored;
  const Durability modes[] = {Durability::kNone, Durability::kBatch, Durability::kPage};
  const bool is_always_durable = seed % 2 == 0;
  const uint64_t max_bytes = random() % 2 ? kNumKeys * kPageSize : UINT64_MAX;
  for (int i = 0; i < num_failures; ++i) {
    TornFiles files(random() % 2 ? 1 + random() % 200 : UINT64_MAX);
    PlainEngine engine(files);
    const uint64_t mode = is_always_durable ? 1 + random() % 2 : random() % 3;
    PoolConfig config = config_of(modes[mode], is_always_durable ? max_bytes : UINT64_MAX);
    config.slack_records = 8;
    {
      PagePool pool(files, engine, open_dir(files, folder.path), config);
      live(pool, files, config.durability != Durability::kNone, stored, random);
    }
    files.lose_power(random);
    if (is_always_durable && random() % 2) continue;
    // A page whose tombstone was lost may have come back for a while.
    const std::vector<bool> is_there = check(folder.path, config, stored);
    for (const uint64_t number : everything())
      if (is_there[number]) stored.insert(number);
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
