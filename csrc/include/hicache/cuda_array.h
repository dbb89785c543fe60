// Memory of the CUDA runtime that goes with its owner.
#pragma once

#include <memory>
#include <utility>

#include "hicache/cuda_api.h"

namespace hicache {

// `count` objects, pinned or on the current device. The memory is not initialised.
template <class T>
class CudaArray {
 public:
  CudaArray(CudaApi& cuda, MemoryKind kind, int64_t count) : cuda_(cuda), kind_(kind) {
    const size_t num_bytes = static_cast<size_t>(count) * sizeof(T);
    memory_ = kind == MemoryKind::kPinned ? cuda.allocate_pinned(num_bytes)
                                          : cuda.allocate_device(num_bytes);
  }
  ~CudaArray() {
    kind_ == MemoryKind::kPinned ? cuda_.free_pinned(memory_) : cuda_.free_device(memory_);
  }
  CudaArray(const CudaArray&) = delete;
  CudaArray& operator=(const CudaArray&) = delete;

  // Pinned memory has one address for the host and for the device.
  T* get() const { return reinterpret_cast<T*>(memory_); }

 private:
  CudaApi& cuda_;
  MemoryKind kind_;
  std::byte* memory_;
};

}  // namespace hicache
