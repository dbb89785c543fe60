// Runtime calls that the simulator leaves out, or answers as no GPU would; preloaded beside it. Its
// streams are never captured.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#define API extern "C" __attribute__((visibility("default")))

namespace {

// The simulator's own call. A module of Python's brings it in without making it global.
template <class Call>
Call simulated(const char* name) {
  static void* const simulator = dlopen("libcudart.so.13", RTLD_LAZY);
  return reinterpret_cast<Call>(dlsym(simulator, name));
}

}  // namespace

API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

API cudaError_t cudaStreamGetDevice(cudaStream_t, int* device) {
  *device = 0;
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  if (priority > 0 || priority < -5) return cudaErrorInvalidValue;
  using Call = cudaError_t (*)(cudaStream_t*, unsigned);
  return simulated<Call>("cudaStreamCreateWithFlags")(stream, flags);
}

API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin) return *value = 227 << 10, cudaSuccess;
  if (attribute == cudaDevAttrPageableMemoryAccess) return *value = 0, cudaSuccess;
  using Call = cudaError_t (*)(int*, cudaDeviceAttr, int);
  return simulated<Call>("cudaDeviceGetAttribute")(value, attribute, device);
}

API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  properties->major = 9;
  properties->multiProcessorCount = 8;
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetPCIBusId(char* id, int, int) { return *id = '\0', cudaSuccess; }

// No driver: what the simulator takes is no time of a GPU.
API cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
