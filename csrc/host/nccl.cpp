// libnccl by dlopen: the module imports, and every CPU feature works, where there is none.
#include "hicache/nccl.h"

#include <dlfcn.h>

#include "hicache/check.h"

namespace hicache {
namespace {

// Values of nccl.h, unchanged since NCCL 2.0.
constexpr int kNcclSuccess = 0;
constexpr int kNcclInProgress = 7;
constexpr int kNcclInt64 = 4;
constexpr int kNcclMin = 3;

template <typename Function>
void find(void* library, const std::string& path, const char* name, Function** out) {
  *out = reinterpret_cast<Function*>(::dlsym(library, name));
  HICACHE_CHECK(kCuda, *out != nullptr, path, " has no ", name, ": is it NCCL 2.4 or later?");
}

}  // namespace

NcclLibrary::NcclLibrary(const std::string& path) {
  const std::string name = path.empty() ? "libnccl.so.2" : path;
  void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  // Read once: dlerror() forgets its message when it has told it.
  const char* reason = library == nullptr ? ::dlerror() : nullptr;
  HICACHE_CHECK(kCuda, library != nullptr,
                "NCCL cannot be opened: ", reason == nullptr ? name : reason,
                "; install nvidia-nccl-cu13, or pass the path of libnccl.so.2");
  find(library, name, "ncclGetVersion", &get_version_);
  find(library, name, "ncclGetErrorString", &get_error_string_);
  find(library, name, "ncclCommCount", &comm_count_);
  find(library, name, "ncclCommUserRank", &comm_user_rank_);
  find(library, name, "ncclCommGetAsyncError", &comm_get_async_error_);
  find(library, name, "ncclAllReduce", &all_reduce_);
}

void NcclLibrary::check(int code, const char* call) const {
  HICACHE_CHECK(kCuda, code == kNcclSuccess || code == kNcclInProgress, call, " failed with ", code,
                ": ", get_error_string_(code));
}

int NcclLibrary::version() const {
  int version = 0;
  check(get_version_(&version), "ncclGetVersion");
  return version;
}

int NcclLibrary::comm_size(void* comm) const {
  int size = 0;
  check(comm_count_(comm, &size), "ncclCommCount");
  return size;
}

int NcclLibrary::comm_rank(void* comm) const {
  int rank = 0;
  check(comm_user_rank_(comm, &rank), "ncclCommUserRank");
  return rank;
}

void NcclLibrary::all_reduce_min(const int64_t* send, int64_t* recv, size_t count, void* comm,
                                 CUstream_st* stream) const {
  check(all_reduce_(send, recv, count, kNcclInt64, kNcclMin, comm, stream), "ncclAllReduce");
}

std::string NcclLibrary::async_error(void* comm) const {
  int code = kNcclSuccess;
  check(comm_get_async_error_(comm, &code), "ncclCommGetAsyncError");
  const bool fine = code == kNcclSuccess || code == kNcclInProgress;
  return fine ? std::string() : std::string(get_error_string_(code));
}

}  // namespace hicache
