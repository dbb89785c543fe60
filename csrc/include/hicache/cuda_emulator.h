// A CUDA runtime on the CPU, for tests. Its streams run late, and in any order that their events
// allow: a wait that is missing shows as wrong bytes. Kernels are their loop bodies. It keeps a
// list of the calls, and fails where it is told to.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "hicache/cuda_api.h"
#include "hicache/emulated_streams.h"

namespace hicache {

struct EmulatorOptions {
  uint32_t seed;
  int num_devices;
  DeviceTraits traits;
  bool has_batches;
  int64_t fail_work;  // this piece of work fails when it runs, and is told by the next wait
  int queries_per_step = 1;
};

// Ranks that meet outside of the emulator: in a test, between processes. A graph runs it again.
class EmulatedCollective {
 public:
  std::optional<std::string> take();  // the oldest send buffer that was not taken
  void answer(std::string bytes);     // for the oldest that was not answered

 private:
  friend class CudaEmulator;

  std::mutex mutex_;
  std::deque<std::string> sent_;
  std::deque<std::string> answers_;
};

class CudaEmulator final : public CudaApi {
 public:
  explicit CudaEmulator(const EmulatorOptions& options);
  ~CudaEmulator() override;

  // Memory of the host that kernels and copy engines may reach, in one registration.
  void register_host(std::byte* address, size_t num_bytes);
  void begin_capture(CudaStream stream);
  void end_capture(CudaStream stream);
  void replay(CudaStream stream);
  void run_all();
  bool step();  // runs one thing; false: nothing can run
  // The stream hands over `send` when it gets there, and goes on with what is answered in `recv`.
  std::shared_ptr<EmulatedCollective> collective(const void* send, size_t send_bytes, void* recv,
                                                 size_t recv_bytes, CudaStream stream);
  std::vector<std::string> take_calls();
  int64_t num_pending();
  int current_device();
  void fail_call_after(int64_t num_calls);  // the call after so many more raises

  int num_devices() override;
  int set_device(int device) override;
  DeviceTraits traits(int device) override;
  DeviceIdentity identity(int device) override;
  MemoryPlace place_of(const void* address) override;
  CudaStream create_stream(StreamPriority priority) override;
  int device_of(CudaStream stream) override;
  bool is_capturing(CudaStream stream) override;
  bool is_idle(CudaStream stream) override;
  void synchronize(CudaStream stream) noexcept override;
  void destroy(CudaStream stream) noexcept override;
  CudaEvent create_event() override;
  void destroy(CudaEvent event) noexcept override;
  void record(CudaEvent event, CudaStream stream) override;
  void stream_wait(CudaStream stream, CudaEvent event) override;
  bool is_done(CudaEvent event) override;
  void wait(CudaEvent event) override;
  void drain(CudaEvent event) noexcept override;
  std::byte* allocate_pinned(size_t num_bytes) override;
  std::byte* allocate_device(size_t num_bytes) override;
  void free_device(std::byte* memory) noexcept override { free(memory, "free_device"); }
  void free_pinned(std::byte* memory) noexcept override { free(memory, "free_pinned"); }
  void copy(void* dst, const void* src, size_t num_bytes, CudaStream stream) override;
  bool copy_batch(const CopyBatch& batch, CudaStream stream) override;
  void preload(CopyKernel kernel) override;
  void launch(CopyKernel kernel, const WorkerArgs& args, const CopyGrid& grid,
              CudaStream stream) override;
  void preload_ticks() override;
  void launch(const PackArgs& args, CudaStream stream) override;
  void launch(const UnpackArgs& args, CudaStream stream) override;

 private:
  struct Memory {
    size_t num_bytes;
    MemoryPlace place;
    std::unique_ptr<std::byte[]> bytes;  // nullptr: it is the caller's
  };

  void note(const std::string& call);  // counts it, and raises if it is the one to fail
  const std::pair<std::byte* const, Memory>* memory_at(const void* address);
  std::byte* allocate(size_t num_bytes, MemoryKind kind);
  void require_copyable(const void* address, size_t num_bytes);
  void require_readable(const void* address, size_t alignment);
  void note_tick(const char* kernel, CudaStream stream);
  void free(std::byte* memory, const char* call) noexcept;

  EmulatorOptions options_;
  std::mutex mutex_;
  std::mt19937 rng_{options_.seed};  // of the order inside of a batch
  int current_device_ = 0;
  int64_t calls_to_failure_ = -1;
  std::vector<std::string> calls_;
  EmulatedStreams streams_;
  std::set<std::pair<int, CopyKernel>> loaded_;  // on which device
  std::set<int> ticks_loaded_;                   // on which devices
  std::map<std::byte*, Memory, std::less<>> memory_;
  std::vector<std::unique_ptr<std::byte[]>> freed_;
};

}  // namespace hicache
