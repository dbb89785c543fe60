// What the C++ tests of the page store share: an engine that makes plain calls, and numbered pages.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "hicache/storage/page_pool.h"

#define EXPECT(condition)                                                  \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                        \
    }                                                                      \
  } while (0)

namespace store_cases {

using namespace hicache;
using namespace hicache::storage;

// One call for each request, through the door that the tests fail.
class PlainEngine : public IoEngine {
 public:
  explicit PlainEngine(Files& files) : files_(files) {}
  void run(const IoRequest* requests, size_t num_requests, const IoLimit& limit,
           const IoDone& done) override {
    for (size_t i = 0; i < num_requests; ++i)
      done(requests[i].position, limit.is_over() ? ECANCELED : run_one(requests[i]));
  }
  int sync(int file) override { return -files_.sync_data(file); }
  void add_buffer(void*, size_t) override {}
  void remove_buffer(void*) override {}
  void add_file(int) override {}
  void remove_file(int) override {}
  IoReport report() const override { return {}; }

 private:
  int run_one(const IoRequest& request) {
    uint64_t offset = request.offset;
    for (uint32_t i = 0; i < request.num_iov; ++i) {
      const iovec& iov = request.iov[i];
      int error = 0;
      if (request.op == IoOp::kRead)
        error = -read_all(files_, request.file, iov.iov_base, iov.iov_len, offset);
      else
        write_all(files_, request.file, iov.iov_base, iov.iov_len, offset, &error);
      if (error != 0) return error;
      offset += iov.iov_len;
    }
    return 0;
  }
  Files& files_;
};

// A folder of its own, removed at the end; in memory where it can be, since thousands are synced.
struct Folder {
  Folder() {
    const char* const memory = "/dev/shm";
    const bool has_memory = ::access(memory, W_OK) == 0;
    path = has_memory ? std::filesystem::path(memory) : std::filesystem::temp_directory_path();
    path /= "hicache-test-XXXXXX";
    std::string text = path.string();
    EXPECT(::mkdtemp(text.data()) != nullptr);
    path = text;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};

inline constexpr uint64_t kPageSize = 4096;

inline PageKey key_of(uint64_t number) {
  std::mt19937_64 random(number);
  return {{random(), random(), random(), random()}};
}

struct alignas(4096) Page {
  std::byte bytes[kPageSize];
  bool operator==(const Page& other) const {
    return std::memcmp(bytes, other.bytes, kPageSize) == 0;
  }
};

inline Page page_of(uint64_t number) {
  Page page;
  for (uint64_t i = 0; i < kPageSize / 8; ++i) {
    const uint64_t word = (number * 0x9e3779b97f4a7c15u + i) ^ number << 32;
    std::memcpy(page.bytes + 8 * i, &word, 8);
  }
  return page;
}

inline PoolConfig config_of(Durability durability = Durability::kNone,
                            uint64_t max_bytes = UINT64_MAX,
                            uint64_t segment_bytes = 16 * kPageSize) {
  return {{kPageSize, Owner{std::byte{7}}}, durability, segment_bytes, max_bytes};
}

inline File open_dir(Files& files, const std::filesystem::path& path) {
  return File(files, files.open(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY, 0));
}

using Numbers = std::vector<uint64_t>;

inline std::vector<PageKey> keys_of(const Numbers& numbers) {
  std::vector<PageKey> keys;
  for (const uint64_t number : numbers) keys.push_back(key_of(number));
  return keys;
}

inline std::vector<bool> put(PagePool& pool, const Numbers& numbers) {
  std::vector<Page> pages;
  for (const uint64_t number : numbers) pages.push_back(page_of(number));
  std::vector<std::byte*> begins;
  for (Page& page : pages) begins.push_back(page.bytes);
  bool is_stored[256] = {};
  const std::vector<PageKey> keys = keys_of(numbers);
  const PoolPart part{&pool, keys, begins.data(), is_stored};
  PagePool::write({&part, 1}, IoLimit{});
  return std::vector<bool>(is_stored, is_stored + numbers.size());
}

// Aborts on wrong bytes.
inline std::vector<bool> get(PagePool& pool, const Numbers& numbers) {
  std::vector<Page> pages(numbers.size());
  std::vector<std::byte*> begins;
  for (Page& page : pages) begins.push_back(page.bytes);
  bool is_read[256] = {};
  const std::vector<PageKey> keys = keys_of(numbers);
  const PoolPart part{&pool, keys, begins.data(), is_read};
  PagePool::read({&part, 1}, IoLimit{});
  for (size_t i = 0; i < numbers.size(); ++i)
    EXPECT(!is_read[i] || pages[i] == page_of(numbers[i]));
  return std::vector<bool>(is_read, is_read + numbers.size());
}

inline bool all(const std::vector<bool>& flags) {
  for (const bool flag : flags)
    if (!flag) return false;
  return true;
}

}  // namespace store_cases
