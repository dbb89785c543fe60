// The calls of the CUDA runtime that copies and ticks make on the host, as an interface: the
// runtime itself, or an emulation on the CPU (cuda_emulator.h). No CUDA header is needed for it, so
// what only talks to it is built, tested and run under sanitizers where there is no toolkit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "hicache/copy_kernel.h"

struct CUstream_st;
struct CUevent_st;

namespace hicache {

using CudaStream = CUstream_st*;  // nullptr is the legacy default stream
using CudaEvent = CUevent_st*;

class CopyResources;
struct WorkerArgs;
struct PackArgs;
struct UnpackArgs;

enum class MemoryKind { kPageable, kPinned, kDevice };

struct MemoryPlace {
  MemoryKind kind;
  int device;  // of kDevice
};

enum class StreamPriority { kLow, kHigh };

// What a device can do, as far as copies ask.
struct DeviceTraits {
  int num_sms;
  int compute_major;     // 9 for sm_90
  int max_shared_bytes;  // dynamic shared memory that one block may opt into
  bool reads_pageable;   // kernels may read host memory that CUDA does not know
};

// Which device it is: what was measured on it is good for no other, nor for another driver.
struct DeviceIdentity {
  std::string uuid;        // as nvidia-smi prints it
  std::string pci_bus_id;  // "0000:3B:00.0"
  int driver_version;      // the CUDA release that it supports: 13000
  int sm_version;          // 90 for sm_90
  int num_sms;
  bool is_coherent;  // it reads through the page tables of the host, over NVLink-C2C
};

// Copies that are handed to the DMA engines in one call.
struct CopyBatch {
  void* const* dsts;        // [num_copies]
  const void* const* srcs;  // [num_copies]
  const size_t* num_bytes;  // [num_copies]
  size_t num_copies;
  bool may_overlap_compute;  // cudaMemcpyFlagPreferOverlapWithCompute
};

// Every call throws Error(kCuda) with the runtime's own words and leaves no sticky error behind;
// the noexcept ones belong into destructors and swallow what they meet.
class CudaApi {
 public:
  CudaApi();
  virtual ~CudaApi();
  CudaApi(const CudaApi&) = delete;
  CudaApi& operator=(const CudaApi&) = delete;

  virtual int num_devices() = 0;
  virtual int set_device(int device) = 0;  // returns the one before
  virtual DeviceTraits traits(int device) = 0;
  virtual DeviceIdentity identity(int device) = 0;
  virtual MemoryPlace place_of(const void* address) = 0;

  virtual CudaStream create_stream(StreamPriority priority) = 0;  // non-blocking
  virtual int device_of(CudaStream stream) = 0;
  virtual bool is_capturing(CudaStream stream) = 0;
  // Whether all of its work is done; throws what went wrong on it. Not while it is captured.
  virtual bool is_idle(CudaStream stream) = 0;
  virtual void synchronize(CudaStream stream) noexcept = 0;
  virtual void destroy(CudaStream stream) noexcept = 0;

  virtual CudaEvent create_event() = 0;
  virtual void destroy(CudaEvent event) noexcept = 0;
  virtual void record(CudaEvent event, CudaStream stream) = 0;
  virtual void stream_wait(CudaStream stream, CudaEvent event) = 0;
  virtual bool is_done(CudaEvent event) = 0;  // also where the work before it has failed
  virtual void wait(CudaEvent event) = 0;
  virtual void drain(CudaEvent event) noexcept = 0;  // wait() for destructors

  // Neither is captured: such memory outlives the call.
  virtual std::byte* allocate_pinned(size_t num_bytes) = 0;
  virtual std::byte* allocate_device(size_t num_bytes) = 0;
  virtual void free_device(std::byte* memory) noexcept = 0;
  virtual void free_pinned(std::byte* memory) noexcept = 0;

  virtual void copy(void* dst, const void* src, size_t num_bytes, CudaStream stream) = 0;
  // False where the driver is older than batches; then nothing was enqueued.
  [[nodiscard]] virtual bool copy_batch(const CopyBatch& batch, CudaStream stream) = 0;
  // Loads the kernel's code, which a launch inside of a capture must not do.
  virtual void preload(CopyKernel kernel) = 0;
  virtual void launch(CopyKernel kernel, const WorkerArgs& args, const CopyGrid& grid,
                      CudaStream stream) = 0;
  // The kernels of a tick (cuda_lanes.h).
  virtual void preload_ticks() = 0;
  virtual void launch(const PackArgs& args, CudaStream stream) = 0;
  virtual void launch(const UnpackArgs& args, CudaStream stream) = 0;

  // What copies keep for the next copies.
  CopyResources& resources() { return *resources_; }

 protected:
  void drop_resources();  // for destructors of what they need

 private:
  std::unique_ptr<CopyResources> resources_;
};

// Throws Error(kCuda) where there is no driver or no such device.
void require_device(CudaApi& cuda, int device);

// The current device of this thread, for as long as the scope lives.
class DeviceScope {
 public:
  DeviceScope(CudaApi& cuda, int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  CudaApi& cuda_;
  int before_;
};

// The runtime, or what a test has put in its place; whatever runs on it shares it. Throws
// Error(kCuda) in a build without CUDA.
std::shared_ptr<CudaApi> cuda_api();

// Null puts the runtime back.
void replace_cuda_api(std::shared_ptr<CudaApi> api);

}  // namespace hicache
