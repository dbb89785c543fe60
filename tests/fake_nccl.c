// A libnccl for tests: records what ncclAllReduce receives; its "peer" answers with peer_lanes.
#include <stddef.h>
#include <stdint.h>

struct Call {
  const void* send;
  void* recv;
  size_t count;
  int datatype;
  int op;
  void* comm;
  void* stream;
  int num_calls;
} last_call;

int all_reduce_code = 0;
int async_code = 0;
const int64_t* peer_lanes = 0;  // null: a group of one

int ncclGetVersion(int* version) { return *version = 23007, 0; }
const char* ncclGetErrorString(int code) { return code == 6 ? "remote error" : "fake error"; }
int ncclCommCount(void* comm, int* count) { return (void)comm, *count = peer_lanes ? 2 : 1, 0; }
int ncclCommUserRank(void* comm, int* rank) { return (void)comm, *rank = 0, 0; }
int ncclCommGetAsyncError(void* comm, int* code) { return (void)comm, *code = async_code, 0; }

// Memory of the simulated device is ordinary memory. Tests that only look at the arguments pass
// addresses that are not: count 0 then, or fake_move 0.
int fake_move = 0;

int ncclAllReduce(const void* send, void* recv, size_t count, int datatype, int op, void* comm,
                  void* stream) {
  struct Call call = {send, recv, count, datatype, op, comm, stream, last_call.num_calls + 1};
  last_call = call;
  if (all_reduce_code != 0) return all_reduce_code;
  for (size_t i = 0; fake_move && i < count; ++i) {
    int64_t lane = ((const int64_t*)send)[i];
    if (peer_lanes && peer_lanes[i] < lane) lane = peer_lanes[i];
    ((int64_t*)recv)[i] = lane;
  }
  return 0;
}
