// The few calls of NCCL that a tick makes, from a libnccl that is opened at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;

namespace hicache {

class NcclLibrary {
 public:
  // `path` empty: libnccl.so.2, as already loaded (by torch) or by the loader's search path.
  // Error(kCuda) when it is absent or lacks a call. It stays loaded for the process's life.
  explicit NcclLibrary(const std::string& path);

  int version() const;  // e.g. 23007 for 2.30.7
  int comm_size(void* comm) const;
  int comm_rank(void* comm) const;
  // recv[i] = min over the ranks of send[i], both int64[count] on the device; enqueued on `stream`.
  void all_reduce_min(const int64_t* send, int64_t* recv, size_t count, void* comm,
                      CUstream_st* stream) const;
  // What went wrong in the background, e.g. a peer's connection; empty if nothing did.
  std::string async_error(void* comm) const;

 private:
  void check(int code, const char* call) const;

  // ncclResult_t, ncclDataType_t and ncclRedOp_t are enums: ints in the C ABI.
  int (*get_version_)(int*);
  const char* (*get_error_string_)(int);
  int (*comm_count_)(void*, int*);
  int (*comm_user_rank_)(void*, int*);
  int (*comm_get_async_error_)(void*, int*);
  int (*all_reduce_)(const void*, void*, size_t, int, int, void*, CUstream_st*);
};

}  // namespace hicache
