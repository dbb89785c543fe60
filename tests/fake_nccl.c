// A libnccl for tests: what a library must export, handed on to the test (fake_nccl.py).
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  char bytes[128];
} Id;

// ncclConfig_t of NCCL 2.14, as nccl.h has it.
typedef struct {
  size_t size;
  unsigned int magic;
  unsigned int version;
  int blocking;
} Config;

typedef struct {
  Id id;
  int rank;
  int size;
} Comm;

enum Kind { kAllReduce, kAllGather };
enum End { kDestroy, kAbort };

// Set by the test. Codes are ncclResult_t.
int (*on_collective)(enum Kind, const void* send, void* recv, size_t count, int type, int op,
                     void* comm, void* stream);
int (*on_start)(Comm*, const Config*);
int (*on_state)(Comm*);
int (*on_end)(Comm*, enum End);

int ncclGetVersion(int* version) { return *version = 23007, 0; }
const char* ncclGetErrorString(int code) { return code == 6 ? "remote error" : "fake error"; }

int ncclGetUniqueId(Id* id) {
  memset(id, 0, sizeof(*id));  // zeros inside, as the real ones have
  id->bytes[127] = 'x';
  return getentropy(id->bytes + 1, 8);
}

int ncclCommInitRankConfig(Comm** out, int size, Id id, int rank, const Config* config) {
  Comm* comm = malloc(sizeof(Comm));
  *comm = (Comm){id, rank, size};
  *out = comm;
  return on_start(comm, config);
}

int ncclCommDestroy(Comm* comm) { return on_end(comm, kDestroy); }
int ncclCommAbort(Comm* comm) { return on_end(comm, kAbort); }
int ncclCommCount(const Comm* comm, int* size) { return *size = comm->size, 0; }
int ncclCommUserRank(const Comm* comm, int* rank) { return *rank = comm->rank, 0; }
int ncclCommGetAsyncError(Comm* comm, int* code) { return *code = on_state(comm), 0; }

int ncclAllReduce(const void* send, void* recv, size_t count, int type, int op, void* comm,
                  void* stream) {
  return on_collective(kAllReduce, send, recv, count, type, op, comm, stream);
}

int ncclAllGather(const void* send, void* recv, size_t count, int type, void* comm, void* stream) {
  return on_collective(kAllGather, send, recv, count, type, -1, comm, stream);
}
