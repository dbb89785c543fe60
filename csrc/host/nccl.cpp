// libnccl by dlopen: the module imports, and every CPU feature works, where there is none.
#include "hicache/nccl.h"

#include <dlfcn.h>

#include <chrono>
#include <thread>

#include "hicache/check.h"

namespace hicache {
namespace {

// Values of nccl.h, unchanged since NCCL 2.0.
constexpr int kNcclSuccess = 0;
constexpr int kNcclInProgress = 7;
constexpr int kNcclInt64 = 4;
constexpr int kNcclMin = 3;

// ncclConfig_t as it was in NCCL 2.14, the first that has one. A later library fills in what this
// version of it lacks.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
};

constexpr auto kPoll = std::chrono::microseconds(100);
// A call on a communicator that does not block may have to connect to peers first.
constexpr auto kMaxConnect = std::chrono::seconds(30);

template <typename Function>
void find(void* library, const std::string& path, const char* name, Function** out) {
  *out = reinterpret_cast<Function*>(::dlsym(library, name));
  HICACHE_CHECK(kCuda, *out != nullptr, path, " has no ", name, ": is it NCCL 2.14 or later?");
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
  find(library, name, "ncclGetUniqueId", &get_unique_id_);
  find(library, name, "ncclCommInitRankConfig", &comm_init_rank_config_);
  find(library, name, "ncclCommDestroy", &comm_destroy_);
  find(library, name, "ncclCommAbort", &comm_abort_);
  find(library, name, "ncclCommCount", &comm_count_);
  find(library, name, "ncclCommUserRank", &comm_user_rank_);
  find(library, name, "ncclCommGetAsyncError", &comm_get_async_error_);
  find(library, name, "ncclAllReduce", &all_reduce_);
  find(library, name, "ncclAllGather", &all_gather_);
}

void NcclLibrary::check(int code, const char* call) const {
  HICACHE_CHECK(kCuda, code == kNcclSuccess || code == kNcclInProgress, call, " failed with ", code,
                ": ", get_error_string_(code));
}

// What follows on the stream must come behind the collective: it is there only when NCCL says so.
void NcclLibrary::check_enqueued(int code, const char* call, void* comm) const {
  check(code, call);
  if (code == kNcclSuccess) return;
  const auto end = std::chrono::steady_clock::now() + kMaxConnect;
  while (in_progress(comm)) {
    HICACHE_CHECK(kCuda, std::chrono::steady_clock::now() < end, call, " is not enqueued after ",
                  kMaxConnect.count(), " s");
    std::this_thread::sleep_for(kPoll);
  }
}

int NcclLibrary::version() const {
  int version = 0;
  check(get_version_(&version), "ncclGetVersion");
  return version;
}

NcclId NcclLibrary::make_id() const {
  NcclId id;
  check(get_unique_id_(&id), "ncclGetUniqueId");
  return id;
}

void* NcclLibrary::start_comm(const NcclId& id, int rank, int size) const {
  NcclConfig config;
  void* comm = nullptr;
  check(comm_init_rank_config_(&comm, size, id, rank, &config), "ncclCommInitRankConfig");
  return comm;
}

bool NcclLibrary::in_progress(void* comm) const {
  int state = kNcclSuccess;
  check(comm_get_async_error_(comm, &state), "ncclCommGetAsyncError");
  check(state, "the communicator");
  return state == kNcclInProgress;
}

void NcclLibrary::destroy(void* comm) const { check(comm_destroy_(comm), "ncclCommDestroy"); }
void NcclLibrary::abort(void* comm) const { check(comm_abort_(comm), "ncclCommAbort"); }

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
  check_enqueued(all_reduce_(send, recv, count, kNcclInt64, kNcclMin, comm, stream),
                 "ncclAllReduce", comm);
}

void NcclLibrary::all_gather(const int64_t* send, int64_t* recv, size_t count, void* comm,
                             CUstream_st* stream) const {
  check_enqueued(all_gather_(send, recv, count, kNcclInt64, comm, stream), "ncclAllGather", comm);
}

std::string NcclLibrary::async_error(void* comm) const {
  int code = kNcclSuccess;
  check(comm_get_async_error_(comm, &code), "ncclCommGetAsyncError");
  const bool fine = code == kNcclSuccess || code == kNcclInProgress;
  return fine ? std::string() : std::string(get_error_string_(code));
}

}  // namespace hicache
