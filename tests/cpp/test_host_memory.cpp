// HostMemory for the sanitizers: every length is zero and writable to its end, pins that fail at
// any chunk leave nothing registered, and memory that is dropped while pinned is unpinned first.
#include <cstdio>
#include <cstdlib>
#include <map>

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
  hicache::HostMemory memory(num_bytes, num_threads);
  for (std::size_t i = 0; i < memory.size(); i += 511) {
    require(memory.data()[i] == std::byte{0}, "a byte is not zero", static_cast<long>(i));
  }
  memory.data()[memory.size() - 1] = std::byte{1};
}

void test_failing_chunk(int failing) {
  constexpr std::size_t kChunk = 64 << 10;
  hicache::HostMemory memory(8 * kChunk, 2);
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

}  // namespace

int main() {
  for (int i = 0; i < 12; ++i) test_bytes(1'000'003u * (i * i + 1), 1 + i % 4);
  for (int failing = 0; failing <= 8; ++failing) test_failing_chunk(failing);
  require(registered.empty(), "memory was dropped with registrations", registered.size());
  std::puts("host memory: ok");
  return 0;
}
