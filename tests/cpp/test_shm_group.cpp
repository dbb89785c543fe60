// The lock-free tick for ThreadSanitizer: the ranks are threads, and all of them see the segment at
// one address, so that a slot that is written while a peer still reads it shows as a race.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "hicache/check.h"
#include "hicache/shm_group.h"
#include "hicache/shm_note.h"

namespace {

struct Mapping {
  void* address = nullptr;
  int num_users = 0;
};
std::map<ino_t, Mapping> mappings;
std::mutex mappings_mutex;

}  // namespace

// Linked with --wrap (CMakeLists.txt): the library's own calls arrive here.
extern "C" void* __real_mmap(void*, size_t, int, int, int, off_t);
extern "C" int __real_munmap(void*, size_t);

extern "C" void* __wrap_mmap(void* address, size_t size, int prot, int flags, int fd, off_t at) {
  struct stat file;
  if (::fstat(fd, &file) != 0) return __real_mmap(address, size, prot, flags, fd, at);
  std::lock_guard lock(mappings_mutex);
  Mapping& mapping = mappings[file.st_ino];
  if (mapping.num_users++ == 0) mapping.address = __real_mmap(address, size, prot, flags, fd, at);
  return mapping.address;
}

extern "C" int __wrap_munmap(void* address, size_t size) {
  std::lock_guard lock(mappings_mutex);
  for (auto& [inode, mapping] : mappings) {
    if (mapping.address != address) continue;
    if (--mapping.num_users > 0) return 0;
    mappings.erase(inode);
    break;
  }
  return __real_munmap(address, size);
}

namespace {

constexpr int64_t kNumLanes = 37;
constexpr uint64_t kNumTicks = 10000;
std::atomic<int> num_failed = 0;

// The lowest over the ranks is that of rank tick % size.
int64_t value(uint64_t tick, int rank, int size, int64_t lane) {
  const int distance = static_cast<int>((rank + size - tick % size) % size);
  return static_cast<int64_t>(tick) * 1000 + lane * 10 + distance;
}

void run_rank(const std::string& name, int rank, int size) {
  hicache::ShmGroup group(name, rank, size, kNumLanes);
  if (!group.attach(30)) ++num_failed;
  std::vector<int64_t> lanes(kNumLanes);
  uint64_t num_issued = 0;
  for (uint64_t tick = 0; tick < kNumTicks; ++tick) {
    // As far ahead as the group allows, by turns: the slots are then reused as early as can be.
    const uint64_t ahead = 1 + (tick + rank) % hicache::ShmGroup::kDepth;
    for (; num_issued < tick + ahead && num_issued < kNumTicks; ++num_issued) {
      for (int64_t i = 0; i < kNumLanes; ++i) lanes[i] = value(num_issued, rank, size, i);
      group.issue(lanes.data());
    }
    if (tick % 16 == 0) group.note(std::string(200, static_cast<char>('a' + tick / 16 % 26)));
    if (!group.wait(30)) ++num_failed;
    if (tick % 16 == 8) num_failed += group.describe_late(30).empty();  // reads the peers' notes
    group.collect(lanes.data());
    for (int64_t i = 0; i < kNumLanes; ++i) num_failed += lanes[i] != value(tick, 0, 1, i);
  }
}

void run_group(int size) {
  const std::string name = "cpp-" + std::to_string(::getpid()) + "-" + std::to_string(size);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.emplace_back([&, rank] {
      try {
        run_rank(name, rank, size);
      } catch (const hicache::Error& error) {
        ++num_failed;
        std::printf("rank %d: %s\n", rank, error.what());
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

// A reader sees a text that was written, whole, or none: 'a' times 100, 'b' times 101, ...
void replace_note_while_reading() {
  hicache::ShmNote note{};
  std::atomic<int> num_reads = 0;
  std::thread reader([&] {
    for (; num_reads < 50000; ++num_reads) {
      const std::string text = note.read();
      const size_t want = text.empty() ? 0 : 100 + static_cast<size_t>(text[0] - 'a');
      num_failed += text != std::string(want, want == 0 ? ' ' : text[0]);
    }
  });
  for (int i = 0; num_reads < 50000; ++i) note.write(std::string(100 + i % 26, 'a' + i % 26));
  reader.join();
}

void read_note_whose_writer_has_died() {
  hicache::ShmNote note{};
  note.write("half");
  ++note.version;
  num_failed += !note.read().empty();
}

}  // namespace

int main() {
  for (int size : {1, 2, 3}) run_group(size);
  replace_note_while_reading();
  read_note_whose_writer_has_died();
  std::printf("test_shm_group: %d failed\n", num_failed.load());
  return num_failed != 0;
}
