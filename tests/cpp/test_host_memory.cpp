// HostMemory for the sanitizers: every length is zero and writable to its end, pins that fail at
// any chunk leave nothing registered, and memory that is dropped while pinned is unpinned first.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>

#include "hicache/check.h"
#include "hicache/host_memory.h"

namespace {

std::map<void*, std::size_t> registered;
int num_pins = 0;
int failing_pin = -1;

int pin(void* address, std::size_t num_bytes) {
  if (num_pins++ == failing_pin) return 2;
  return registered.emplace(address, num_bytes).second ? 0 : 712;
}

int unpin(void* address) { return registered.erase(address) == 1 ? 0 : 713; }

int clear_error() { return 0; }

void require(bool condition, const char* what, long value) {
  if (condition) return;
  std::fprintf(stderr, "%s (value %ld)\n", what, value);
  std::exit(1);
}

void test_bytes(std::size_t num_bytes, int num_threads) {
  hicache::HostMemory memory(num_bytes, {.num_threads = num_threads});
  for (std::size_t i = 0; i < memory.size(); i += 511) {
    require(memory.data()[i] == std::byte{0}, "a byte is not zero", static_cast<long>(i));
  }
  memory.data()[memory.size() - 1] = std::byte{1};
}

void test_failing_chunk(int failing) {
  constexpr std::size_t kChunk = 64 << 10;
  hicache::HostMemory memory(8 * kChunk, {.num_threads = 2});
  num_pins = 0;
  failing_pin = failing;
  bool failed = false;
  try {
    memory.pin({pin, unpin, clear_error, nullptr}, 4096, kChunk, 0);
  } catch (const hicache::Error& error) {
    failed = error.kind() == hicache::ErrorKind::kCuda;
  }
  require(failed == (failing < 8), "a failing chunk was not told", failing);
  require(registered.size() == (failed ? 0 : 8), "wrong number of registrations", failing);
}

void test_shared() {
  hicache::HostMemory first(100'000, {.sharing = hicache::Sharing::kShared});
  hicache::HostMemory second(hicache::MemoryFile{first.fd()}, 100'000);
  first.data()[99'999] = std::byte{7};
  require(second.data()[99'999] == std::byte{7}, "the two do not share", second.fd());
  first.close();
  second.data()[0] = second.data()[99'999];
  for (const int fd : {-1, 0, second.fd()}) {
    bool refused = false;
    try {
      hicache::HostMemory(hicache::MemoryFile{fd}, 200'000);
    } catch (const hicache::Error&) {
      refused = true;
    }
    require(refused, "a file that does not fit was attached", fd);
  }
}

// Pools come and go while copies on other threads ask where a batch has to be split.
void test_registry_from_threads() {
  failing_pin = -1;
  hicache::HostMemory stays(4 << 16, {});
  stays.pin({pin, unpin, clear_error, nullptr}, 4096, 1 << 16, 0);
  std::atomic<bool> done{false};
  std::thread asking([&] {
    while (!done) {
      const auto found = hicache::pinned_regions_in(stays.data() + 5, (3 << 16) + 1);
      require(found.size() == 4, "regions of a pinned buffer", static_cast<long>(found.size()));
      require(found[0].num_bytes == (1 << 16) - 5 && found[3].num_bytes == 6, "a cut region", 0);
    }
  });
  for (int i = 0; i < 200; ++i) {
    hicache::HostMemory comes(1 << 14, {});
    comes.pin({pin, unpin, clear_error, nullptr}, 4096, 1 << 12, 0);
  }
  done = true;
  asking.join();
}

}  // namespace

int main() {
  for (int i = 0; i < 12; ++i) test_bytes(1'000'003u * (i * i + 1), 1 + i % 4);
  for (int failing = 0; failing <= 8; ++failing) test_failing_chunk(failing);
  test_shared();
  test_registry_from_threads();
  require(registered.empty(), "memory was dropped with registrations", registered.size());
  std::puts("host memory: ok");
  return 0;
}
