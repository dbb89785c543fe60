// What copies ask of CUDA about memory and streams of others.
#include "hicache/check.h"
#include "hicache/cuda_copy.h"

namespace hicache {

void order_streams(int device, CudaStream before, CudaStream after) {
  const auto cuda = cuda_api();
  const DeviceScope scope(*cuda, device);
  if (cuda->is_capturing(after) && !cuda->is_capturing(before)) return;
  const CudaEvent event = cuda->create_event();
  try {
    cuda->record(event, before);
    cuda->stream_wait(after, event);
  } catch (const Error&) {
    cuda->destroy(event);
    throw;
  }
  cuda->destroy(event);  // it lives on in the queues that know it
}

std::optional<int> device_of_memory(const void* address) {
  const MemoryPlace place = cuda_api()->place_of(address);
  if (place.kind != MemoryKind::kDevice) return std::nullopt;
  return place.device;
}

}  // namespace hicache
