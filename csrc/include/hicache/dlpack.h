// The binary interface of DLPack 1 (dmlc/dlpack), as far as it is read here.
#pragma once

#include <cstdint>

namespace hicache::dl {

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };

enum TypeCode : uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kOpaque = 3,
  kBfloat = 4,
  kComplex = 5,
  kBool = 6
};

struct Device {
  int32_t type;  // DeviceType, or one that is not known here
  int32_t id;
};

struct DataType {
  uint8_t code;  // TypeCode, or one that is not known here
  uint8_t bits;  // of one lane
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;    // [ndim]
  int64_t* strides;  // [ndim] in elements; null: dense
  uint64_t byte_offset;
};

// Before version 1, in a capsule named "dltensor".
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

inline constexpr uint32_t kMajorVersion = 1;
inline constexpr uint64_t kReadOnly = 1;

// In a capsule named "dltensor_versioned".
struct ManagedVersioned {
  uint32_t major;  // another one: only the deleter may be touched
  uint32_t minor;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};

}  // namespace hicache::dl
