// The engine on machines that forbid something, which a child process makes for itself.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "hicache/check.h"
#include "hicache/storage/aligned_buffers.h"
#include "hicache/storage/io_engine.h"

using namespace hicache;

namespace {

constexpr size_t kNumPages = 300;  // more than a ring takes at once
int num_failed = 0;

void expect(bool condition, const char* what, const std::string& value = "") {
  if (condition) return;
  ++num_failed;
  std::printf("%s: %s\n", what, value.c_str());
}

// The number of expectations that `check` missed in a process of its own.
void in_child(const std::function<void()>& check) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    num_failed = 0;
    ::alarm(30);  // a hang is a failure
    check();
    std::fflush(stdout);
    ::_exit(num_failed);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child", std::to_string(status));
}

// From here on the system call fails with EPERM, as under the filter of a container.
void forbid(unsigned call) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{sizeof(code) / sizeof(code[0]), code};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  expect(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0, "seccomp",
         std::strerror(errno));
}

// Writes and reads pages that are registered where that is allowed; `error` of each.
void move_pages(IoEngine& engine, int error) {
  const int fd = ::memfd_create("io_fallback", MFD_CLOEXEC);
  AlignedBuffers buffers(kPageBytes, kNumPages);
  const auto lease = buffers.take(kNumPages);
  engine.add_buffer(buffers.data(), buffers.num_bytes());
  engine.add_file(fd);
  std::vector<iovec> iovs;
  for (size_t i = 0; i < kNumPages; ++i) iovs.push_back({lease[i], kPageBytes});
  for (const IoOp op : {IoOp::kWrite, IoOp::kRead}) {
    const int filler = op == IoOp::kWrite ? 7 : 0;
    std::memset(buffers.data(), filler, buffers.num_bytes());
    std::vector<IoRequest> requests;
    for (uint32_t i = 0; i < kNumPages; ++i)
      requests.push_back({op, fd, 2 * i * kPageBytes, &iovs[i], 1, i});
    uint32_t num_done = 0;
    engine.run(requests.data(), kNumPages, {}, [&](uint32_t, int found) {
      ++num_done;
      expect(found == error, "error", std::strerror(found));
    });
    expect(num_done == kNumPages, "done once for each", std::to_string(num_done));
  }
  for (size_t i = 0; i < kNumPages; ++i)
    expect(lease[i][99] == std::byte{static_cast<unsigned char>(error == 0 ? 7 : 0)}, "bytes");
  engine.remove_file(fd);
  engine.remove_buffer(buffers.data());
  ::close(fd);
}

std::string refusal_of(const IoConfig& config) {
  try {
    make_io_engine(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void no_io_uring() {
  forbid(__NR_io_uring_setup);
  const auto engine = make_io_engine({});
  expect(engine->report().engine == "threads", "engine", engine->report().engine);
  expect(engine->report().engine_reason.find("not permitted") != std::string::npos, "reason",
         engine->report().engine_reason);
  move_pages(*engine, 0);
  IoConfig config;
  config.path = IoPath::kUring;
  expect(refusal_of(config).find("io_uring") != std::string::npos, "refused", refusal_of(config));
}

// A ring that takes nothing any more: errors, no hang, and no bytes.
void dead_ring() {
  const auto engine = make_io_engine({});
  forbid(__NR_io_uring_enter);
  move_pages(*engine, EIO);
}

void no_locked_memory() {
  const rlimit little{256 << 10, 256 << 10};  // a ring needs some of it
  expect(::setrlimit(RLIMIT_MEMLOCK, &little) == 0, "memlock");
  constexpr uid_t kNobody = 65534;  // root may lock what it likes
  if (::geteuid() == 0) expect(::setresuid(kNobody, kNobody, kNobody) == 0, "setresuid");
  const auto engine = make_io_engine({});
  expect(engine->report().engine == "io_uring", "engine", engine->report().engine_reason);
  AlignedBuffers buffers(1 << 20, 4);
  engine->add_buffer(buffers.data(), buffers.num_bytes());
  expect(engine->report().buffers.find("plain: ") == 0, "buffers", engine->report().buffers);
  engine->remove_buffer(buffers.data());
  move_pages(*engine, 0);
}

void environment() {
  ::setenv("HICACHE_IO", "threads", 1);
  expect(make_io_engine({})->report().engine == "threads", "forced");
  ::setenv("HICACHE_IO", "smoke", 1);
  expect(refusal_of({}).find("HICACHE_IO=smoke") != std::string::npos, "unknown", refusal_of({}));
  IoConfig config;
  config.max_call_bytes = 5000;
  expect(refusal_of(config).find("max_call_bytes=5000") != std::string::npos, "call bytes");
}

}  // namespace

int main() {
  in_child(environment);
  if (make_io_engine({})->report().engine == "io_uring") {
    in_child(no_io_uring);
    in_child(dead_ring);
    in_child(no_locked_memory);
  }
  std::printf("test_io_fallbacks: %d failed\n", num_failed);
  return num_failed == 0 ? 0 : 1;
}
