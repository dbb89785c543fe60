// The few calls of NCCL that a tick makes, from a libnccl that is opened at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;

namespace hicache {

// What rank 0 makes and every rank of a new communicator needs: ncclUniqueId.
struct NcclId {
  char bytes[128];
};

class NcclLibrary {
 public:
  // `path` empty: libnccl.so.2, as already loaded (by torch) or by the loader's search path.
  // Error(kCuda) when it is absent or lacks a call. It stays loaded for the process's life.
  explicit NcclLibrary(const std::string& path);

  int version() const;  // e.g. 23007 for 2.30.7
  NcclId make_id() const;
  // Returns at once: the other ranks have come, and the communicator can be used, when
  // in_progress() is false. For the current device.
  void* start_comm(const NcclId& id, int rank, int size) const;
  bool in_progress(void* comm) const;  // throws what went wrong
  // Both end it. After abort() what it still does on the device is given up.
  void destroy(void* comm) const;
  void abort(void* comm) const;

  int comm_size(void* comm) const;
  int comm_rank(void* comm) const;
  // recv[i] = min over the ranks of send[i], both int64[count] on the device; enqueued on `stream`.
  void all_reduce_min(const int64_t* send, int64_t* recv, size_t count, void* comm,
                      CUstream_st* stream) const;
  // recv[rank][i] = send[i] of that rank; recv is int64[size, count].
  void all_gather(const int64_t* send, int64_t* recv, size_t count, void* comm,
                  CUstream_st* stream) const;
  // What went wrong in the background, e.g. a peer's connection; empty if nothing did.
  std::string async_error(void* comm) const;

 private:
  void check(int code, const char* call) const;
  void check_enqueued(int code, const char* call, void* comm) const;

  // ncclResult_t, ncclDataType_t and ncclRedOp_t are enums: ints in the C ABI.
  int (*get_version_)(int*);
  const char* (*get_error_string_)(int);
  int (*get_unique_id_)(NcclId*);
  int (*comm_init_rank_config_)(void**, int, NcclId, int, void*);
  int (*comm_destroy_)(void*);
  int (*comm_abort_)(void*);
  int (*comm_count_)(void*, int*);
  int (*comm_user_rank_)(void*, int*);
  int (*comm_get_async_error_)(void*, int*);
  int (*all_reduce_)(const void*, void*, size_t, int, int, void*, CUstream_st*);
  int (*all_gather_)(const void*, void*, size_t, int, void*, CUstream_st*);
};

}  // namespace hicache
