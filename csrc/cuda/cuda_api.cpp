// Which CudaApi copies use.
#include "hicache/cuda_api.h"

#include <mutex>
#include <utility>

#include "copy_resources.h"
#include "hicache/check.h"

namespace hicache {

#ifdef HICACHE_WITH_CUDA
CudaApi& cuda_runtime();
#endif

namespace {

std::mutex mutex;
std::shared_ptr<CudaApi> replacement;

}  // namespace

CudaApi::CudaApi() : resources_(std::make_unique<CopyResources>(*this)) {}
CudaApi::~CudaApi() = default;
void CudaApi::drop_resources() { resources_.reset(); }

void require_device(CudaApi& cuda, int device) {
  const int num_devices = cuda.num_devices();
  HICACHE_CHECK(kCuda, device >= 0 && device < num_devices, "device=", device,
                " num_devices=", num_devices);
}

DeviceScope::DeviceScope(CudaApi& cuda, int device)
    : cuda_(cuda), before_(cuda.set_device(device)) {}

DeviceScope::~DeviceScope() {
  try {
    cuda_.set_device(before_);
  } catch (const Error&) {
    // It was the current one a moment ago; a device that is lost since then says so in the next
    // call.
  }
}

std::shared_ptr<CudaApi> cuda_api() {
  {
    std::lock_guard lock(mutex);
    if (replacement != nullptr) return replacement;
  }
#ifdef HICACHE_WITH_CUDA
  return {&cuda_runtime(), [](CudaApi*) {}};
#else
  raise(ErrorKind::kCuda, "this build of hicache_ext has no CUDA part");
#endif
}

void replace_cuda_api(std::shared_ptr<CudaApi> api) {
  std::lock_guard lock(mutex);
  replacement = std::move(api);
}

}  // namespace hicache
