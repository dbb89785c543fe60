// The CUDA runtime behind CudaApi.
#include <cstdio>

#include "copy_kernels.h"
#include "hicache/copy_ring.h"
#include "hicache/cuda_api.h"
#include "hicache/cuda_check.h"
#include "hicache/cuda_lanes.h"

namespace hicache {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  HICACHE_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    char byte[4];
    const bool starts_group = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
    std::snprintf(byte, sizeof(byte), starts_group ? "-%02x" : "%02x",
                  static_cast<unsigned char>(uuid.bytes[i]));
    text += byte;
  }
  return text;
}

// An allocation inside of a capture is refused, or ends the capture, unless this thread has said
// that it means it.
class UncapturedScope {
 public:
  UncapturedScope() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~UncapturedScope() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  UncapturedScope(const UncapturedScope&) = delete;
  UncapturedScope& operator=(const UncapturedScope&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

void swallow(cudaError_t code) noexcept {
  if (code != cudaSuccess) cudaGetLastError();
}

bool is_unknown_to_driver(cudaError_t code) {
  return code == cudaErrorNotSupported || code == cudaErrorCallRequiresNewerDriver;
}

cudaError_t memcpy_batch(const CopyBatch& batch, cudaMemcpyAttributes& attributes,
                         cudaStream_t stream) {
  size_t first = 0;  // the attributes hold from this copy on
#if CUDART_VERSION >= 13000
  return cudaMemcpyBatchAsync(batch.dsts, batch.srcs, batch.num_bytes, batch.num_copies,
                              &attributes, &first, 1, stream);
#else
  size_t failed = 0;
  return cudaMemcpyBatchAsync(const_cast<void**>(batch.dsts), const_cast<void**>(batch.srcs),
                              const_cast<size_t*>(batch.num_bytes), batch.num_copies, &attributes,
                              &first, 1, &failed, stream);
#endif
}

KernelImage image_of(CopyKernel kernel) {
  switch (kernel) {
    case CopyKernel::kShortRuns: return short_run_kernel();
    case CopyKernel::kLongRuns: return long_run_kernel();
    default: return bulk_kernel();
  }
}

class CudaRuntime final : public CudaApi {
 public:
  int num_devices() override {
    int count = 0;
    HICACHE_CUDA_CHECK(cudaGetDeviceCount(&count));
    return count;
  }

  int set_device(int device) override {
    int before = 0;
    HICACHE_CUDA_CHECK(cudaGetDevice(&before));
    if (before != device) HICACHE_CUDA_CHECK(cudaSetDevice(device));
    return before;
  }

  DeviceTraits traits(int device) override {
    return {attribute(cudaDevAttrMultiProcessorCount, device),
            attribute(cudaDevAttrComputeCapabilityMajor, device),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            attribute(cudaDevAttrPageableMemoryAccess, device) != 0};
  }

  DeviceIdentity identity(int device) override {
    cudaDeviceProp properties{};
    HICACHE_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    char pci_bus_id[32] = {};
    HICACHE_CUDA_CHECK(cudaDeviceGetPCIBusId(pci_bus_id, sizeof(pci_bus_id), device));
    int driver_version = 0;
    HICACHE_CUDA_CHECK(cudaDriverGetVersion(&driver_version));
    return {uuid_text(properties.uuid),
            pci_bus_id,
            driver_version,
            properties.major * 10 + properties.minor,
            properties.multiProcessorCount,
            attribute(cudaDevAttrPageableMemoryAccessUsesHostPageTables, device) != 0};
  }

  MemoryPlace place_of(const void* address) override {
    cudaPointerAttributes attributes{};
    HICACHE_CUDA_CHECK(cudaPointerGetAttributes(&attributes, address));
    switch (attributes.type) {
      case cudaMemoryTypeHost: return {MemoryKind::kPinned, 0};
      case cudaMemoryTypeUnregistered: return {MemoryKind::kPageable, 0};
      default: return {MemoryKind::kDevice, attributes.device};
    }
  }

  CudaStream create_stream(StreamPriority priority) override {
    int least = 0, greatest = 0;
    HICACHE_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    cudaStream_t stream = nullptr;
    HICACHE_CUDA_CHECK(cudaStreamCreateWithPriority(
        &stream, cudaStreamNonBlocking, priority == StreamPriority::kHigh ? greatest : least));
    return stream;
  }

  int device_of(CudaStream stream) override {
    int device = 0;
    const cudaError_t code = cudaStreamGetDevice(stream, &device);
    if (!is_unknown_to_driver(code)) {
      HICACHE_CUDA_CHECK(code);
      return device;
    }
    swallow(code);  // before 12.8 nobody can tell: believe the caller, who has set the device
    HICACHE_CUDA_CHECK(cudaGetDevice(&device));
    return device;
  }

  bool is_capturing(CudaStream stream) override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    HICACHE_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
    return status != cudaStreamCaptureStatusNone;
  }

  // Another thread may be capturing, which forbids queries to all that do not insist.
  bool is_idle(CudaStream stream) override {
    const UncapturedScope scope;
    const cudaError_t code = cudaStreamQuery(stream);
    if (code == cudaErrorNotReady) return swallow(code), false;
    HICACHE_CUDA_CHECK(code);
    return true;
  }

  void synchronize(CudaStream stream) noexcept override { swallow(cudaStreamSynchronize(stream)); }
  void destroy(CudaStream stream) noexcept override { swallow(cudaStreamDestroy(stream)); }

  CudaEvent create_event() override {
    cudaEvent_t event = nullptr;
    HICACHE_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
  }

  void destroy(CudaEvent event) noexcept override { swallow(cudaEventDestroy(event)); }

  void record(CudaEvent event, CudaStream stream) override {
    HICACHE_CUDA_CHECK(cudaEventRecord(event, stream));
  }

  void stream_wait(CudaStream stream, CudaEvent event) override {
    HICACHE_CUDA_CHECK(cudaStreamWaitEvent(stream, event, 0));
  }

  bool is_done(CudaEvent event) override {
    const cudaError_t code = cudaEventQuery(event);
    swallow(code);  // an error is done as well; wait() raises it
    return code != cudaErrorNotReady;
  }

  void wait(CudaEvent event) override { HICACHE_CUDA_CHECK(cudaEventSynchronize(event)); }
  void drain(CudaEvent event) noexcept override { swallow(cudaEventSynchronize(event)); }

  std::byte* allocate_pinned(size_t num_bytes) override {
    const UncapturedScope scope;
    void* memory = nullptr;
    HICACHE_CUDA_CHECK(cudaHostAlloc(&memory, num_bytes, cudaHostAllocPortable));
    return static_cast<std::byte*>(memory);
  }

  std::byte* allocate_device(size_t num_bytes) override {
    const UncapturedScope scope;
    void* memory = nullptr;
    HICACHE_CUDA_CHECK(cudaMalloc(&memory, num_bytes));
    return static_cast<std::byte*>(memory);
  }

  void free_device(std::byte* memory) noexcept override { swallow(cudaFree(memory)); }
  void free_pinned(std::byte* memory) noexcept override { swallow(cudaFreeHost(memory)); }

  void copy(void* dst, const void* src, size_t num_bytes, CudaStream stream) override {
    HICACHE_CUDA_CHECK(cudaMemcpyAsync(dst, src, num_bytes, cudaMemcpyDefault, stream));
  }

  bool copy_batch(const CopyBatch& batch, CudaStream stream) override {
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    if (batch.may_overlap_compute) attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
    const cudaError_t code = memcpy_batch(batch, attributes, stream);
    if (is_unknown_to_driver(code)) return swallow(code), false;
    HICACHE_CUDA_CHECK(code);
    return true;
  }

  void preload(CopyKernel kernel) override {
    const UncapturedScope scope;
    const void* const function = image_of(kernel).function;
    cudaFuncAttributes attributes{};
    HICACHE_CUDA_CHECK(cudaFuncGetAttributes(&attributes, function));
    if (kernel != CopyKernel::kBulk) return;
    int device = 0;
    HICACHE_CUDA_CHECK(cudaGetDevice(&device));
    const int most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    HICACHE_CUDA_CHECK(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  }

  void launch(CopyKernel kernel, const WorkerArgs& args, const CopyGrid& grid,
              CudaStream stream) override {
    const KernelImage image = image_of(kernel);
    WorkerArgs worker = args;
    uint32_t rings = grid.workers_per_block, slot_bytes = grid.slot_bytes;
    const size_t shared_bytes = kernel == CopyKernel::kBulk ? rings * ring_bytes(slot_bytes) : 0;
    void* arguments[] = {&worker, &rings, &slot_bytes};  // the register kernels take the first
    HICACHE_CUDA_CHECK(cudaLaunchKernel(image.function, dim3(grid.num_blocks),
                                        dim3(image.num_threads), arguments, shared_bytes, stream));
  }

  void preload_ticks() override {
    const UncapturedScope scope;
    preload_lane_kernels();
  }

  void launch(const PackArgs& args, CudaStream stream) override { launch_pack_lanes(args, stream); }
  void launch(const UnpackArgs& args, CudaStream stream) override {
    launch_unpack_lanes(args, stream);
  }
};

}  // namespace

// Never destroyed: at the end of the process CUDA may be gone before the statics are.
CudaApi& cuda_runtime() {
  static auto* const runtime = new CudaRuntime;
  return *runtime;
}

}  // namespace hicache
