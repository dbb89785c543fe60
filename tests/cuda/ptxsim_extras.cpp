// Runtime calls that the simulator leaves out; preloaded beside it. Its streams are never captured.
#include <cuda_runtime_api.h>

extern "C" __attribute__((visibility("default"))) cudaError_t
cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
