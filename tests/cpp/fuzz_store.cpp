// What a shard may look like, from the bytes of a fuzzer: a store that finds it never crashes and
// never delivers wrong bytes, and where no writer made it, takes pages and has them at the next
// open.
//
//   input: [flags | num_slots | a byte for each slot | the index]
//
// For libFuzzer, or for fuzz_main.cpp. With HICACHE_FUZZ_SEEDS=folder it only writes what real
// stores leave to that folder.
#include <fstream>
#include <iterator>

#include "hicache/storage/shard_writer.h"
#include "store_cases.h"

namespace {

using namespace store_cases;

constexpr uint64_t kNumKeys = 12;
constexpr uint64_t kSegmentSlots = 8;

// Bits of the first byte.
enum Flag : uint8_t {
  kIsSealed = 1,      // every record has the check that its bytes want: a writer gone mad
  kHasName = 2,       // the folder has the name that the header tells
  kHasNeighbour = 4,  // another process had been here
  kHasQuota = 8,
};

struct Input {
  uint8_t flags = 0;
  std::vector<uint8_t> slots{};  // which page lies there; kNumKeys and more: none
  std::vector<std::byte> index{};
};

Input input_of(const uint8_t* data, size_t num_bytes) {
  Input input;
  if (num_bytes < 2) return input;
  input.flags = data[0];
  const size_t num_slots = std::min<size_t>(data[1] % 32, num_bytes - 2);
  input.slots.assign(data + 2, data + 2 + num_slots);
  const auto* rest = reinterpret_cast<const std::byte*>(data) + 2 + num_slots;
  input.index.assign(rest, rest + num_bytes - 2 - num_slots);
  return input;
}

// The slot is kept small: room for it is made on the disk.
void seal(std::vector<std::byte>& index) {
  IndexHeader header;
  if (index.size() < sizeof(header)) return;
  std::memcpy(&header, index.data(), sizeof(header));
  header = make_header(config_of().format, kSegmentSlots * kPageSize, header.shard, header.epoch);
  std::memcpy(index.data(), &header, sizeof(header));
  for (uint64_t i = 0; record_offset(i + 1) <= index.size(); ++i) {
    Record record;
    std::memcpy(&record, index.data() + record_offset(i), sizeof(record));
    record.kind = static_cast<RecordKind>(1 + static_cast<uint32_t>(record.kind) % 3);
    record.slot %= 64;
    record.check = check_of(record, header, i);
    std::memcpy(index.data() + record_offset(i), &record, sizeof(record));
  }
}

uint64_t name_of(const Input& input) {
  IndexHeader header{};
  if ((input.flags & kHasName) != 0 && input.index.size() >= sizeof(header))
    std::memcpy(&header, input.index.data(), sizeof(header));
  return header.shard;
}

template <typename Bytes>
void write_file(const std::filesystem::path& path, const Bytes& bytes, bool is_more = false) {
  std::ofstream file(path, std::ios::binary | (is_more ? std::ios::app : std::ios::trunc));
  file.write(reinterpret_cast<const char*>(std::data(bytes)),
             static_cast<std::streamsize>(std::size(bytes) * sizeof(*std::data(bytes))));
}

void plant(const std::filesystem::path& folder, Input input) {
  if ((input.flags & kIsSealed) != 0) seal(input.index);
  char text[32];
  std::snprintf(text, sizeof(text), "shard-%016llx",
                static_cast<unsigned long long>(name_of(input)));
  std::filesystem::create_directory(folder / text);
  write_file(folder / text / "index", input.index);
  for (size_t slot = 0; slot < input.slots.size(); ++slot) {
    char name[32];
    std::snprintf(name, sizeof(name), "%08zx.pages", slot / kSegmentSlots);
    const Page page = page_of(input.slots[slot]);
    write_file(folder / text / name, page.bytes, /*is_more=*/true);
  }
}

Numbers everything() {
  Numbers numbers;
  for (uint64_t number = 0; number < kNumKeys; ++number) numbers.push_back(number);
  return numbers;
}

class Store {
 public:
  Store(const std::filesystem::path& folder, const PoolConfig& config)
      : engine_(files_), pool_(files_, engine_, open_dir(files_, folder), config) {}
  PagePool& pool() { return pool_; }

 private:
  Files files_;
  PlainEngine engine_;
  PagePool pool_;
};

void look(PagePool& pool) {
  // What is damaged is dropped as it is found, and another copy of it may be damaged too.
  for (uint64_t num_before = UINT64_MAX; num_before != pool.stats().num_corrupt_pages;) {
    num_before = pool.stats().num_corrupt_pages;
    get(pool, everything());  // aborts on wrong bytes
  }
}

PoolConfig make_config(uint8_t flags) {
  const uint64_t max_bytes = (flags & kHasQuota) != 0 ? 2 * kNumKeys * kPageSize : UINT64_MAX;
  PoolConfig config = config_of(Durability::kNone, max_bytes, kSegmentSlots * kPageSize);
  config.slack_records = 4;
  return config;
}

void write_seeds(const std::filesystem::path& folder) {
  for (uint64_t seed = 0; seed < 24; ++seed) {
    std::mt19937_64 random(seed);
    const Folder made;
    {
      Store store(made.path, make_config(0));
      for (uint64_t op = 1 + random() % 12; op > 0; --op) {
        Numbers numbers;
        for (uint64_t n = 1 + random() % 4; n > 0; --n) numbers.push_back(random() % kNumKeys);
        if (random() % 4 == 0) {
          store.pool().remove(keys_of(numbers));
        } else {
          put(store.pool(), numbers);
        }
        if (random() % 12 == 0) EXPECT(store.pool().clear() == 0);
      }
    }
    std::vector<uint8_t> slots;
    std::vector<uint8_t> index;
    for (const auto& shard : std::filesystem::directory_iterator(made.path)) {
      std::ifstream file(shard.path() / "index", std::ios::binary);
      index.assign(std::istreambuf_iterator<char>(file), {});
      for (uint32_t slot = 0; slot < 31; ++slot) {
        char name[32];
        std::snprintf(name, sizeof(name), "%08zx.pages", slot / kSegmentSlots);
        std::ifstream pages(shard.path() / name, std::ios::binary);
        Page page;
        pages.seekg(static_cast<std::streamoff>(slot % kSegmentSlots * kPageSize));
        if (!pages.read(reinterpret_cast<char*>(page.bytes), kPageSize)) break;
        uint8_t number = 0;
        while (number < kNumKeys && !(page == page_of(number))) ++number;
        slots.push_back(number);
      }
    }
    std::vector<uint8_t> input = {static_cast<uint8_t>(kHasName | random() % 16),
                                  static_cast<uint8_t>(slots.size())};
    input.insert(input.end(), slots.begin(), slots.end());
    input.insert(input.end(), index.begin(), index.end());
    write_file(folder / ("seed-" + std::to_string(seed)), input);
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  if (const char* folder = std::getenv("HICACHE_FUZZ_SEEDS")) {
    write_seeds(folder);
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  static const Folder folder;
  const Input input = input_of(data, num_bytes);
  const PoolConfig config = make_config(input.flags);
  for (const auto& left : std::filesystem::directory_iterator(folder.path))
    std::filesystem::remove_all(left.path());
  if ((input.flags & kHasNeighbour) != 0) put(Store(folder.path, config).pool(), {0, 1, 2});
  plant(folder.path, input);
  const bool is_honest = (input.flags & kIsSealed) == 0;
  {
    Store watcher(folder.path, config), writer(folder.path, config);
    look(watcher.pool());
    look(writer.pool());
    const bool are_stored = all(put(writer.pool(), {3, 4, 5, 6}));
    const bool are_read = all(get(writer.pool(), {3, 4, 5, 6}));
    EXPECT(!is_honest || (are_stored && are_read));
    writer.pool().remove(keys_of({5}));
    look(watcher.pool());
  }
  Store again(folder.path, config);
  const std::vector<bool> is_read = get(again.pool(), everything());
  EXPECT(!is_honest || (is_read[3] && is_read[4] && !is_read[5] && is_read[6]));
  EXPECT(again.pool().clear() == 0 || !is_honest);
  return 0;
}
