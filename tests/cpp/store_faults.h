// Files that end the process in the middle of a system call, for the crash tests of the page store.
#pragma once

#include <csignal>

#include "store_cases.h"

namespace store_cases {

// The n-th call that changes something is the last: before it, behind it, or half way through a
// write.
class FatalFiles : public Files {
 public:
  enum class Moment { kBefore, kHalfWay, kBehind };
  FatalFiles(uint64_t num_calls_left, Moment moment) : left_(num_calls_left), moment_(moment) {}

  int open(int dir, const char* name, int flags, mode_t mode) override {
    if ((flags & O_CREAT) == 0) return Files::open(dir, name, flags, mode);
    return around([&] { return Files::open(dir, name, flags, mode); });
  }
  int make_dir(int dir, const char* name, mode_t mode) override {
    return around([&] { return Files::make_dir(dir, name, mode); });
  }
  int64_t write(int file, const void* from, size_t num_bytes, uint64_t offset) override {
    if (left_ == 1 && moment_ == Moment::kHalfWay) {
      // O_DIRECT takes sectors; what goes through the page cache stops at any byte.
      const size_t half = num_bytes >= 8192 ? num_bytes / 2 / 4096 * 4096 : num_bytes / 3;
      Files::write(file, from, half, offset);
      die();
    }
    return around([&] { return Files::write(file, from, num_bytes, offset); });
  }
  int allocate(int file, uint64_t offset, uint64_t num_bytes) override {
    return around([&] { return Files::allocate(file, offset, num_bytes); });
  }
  int truncate(int file, uint64_t num_bytes) override {
    return around([&] { return Files::truncate(file, num_bytes); });
  }
  int sync_data(int file) override {
    return around([&] { return Files::sync_data(file); });
  }
  int sync(int file) override {
    return around([&] { return Files::sync(file); });
  }
  int rename(int dir, const char* from, const char* to) override {
    return around([&] { return Files::rename(dir, from, to); });
  }
  int lock(int file) override {
    return around([&] { return Files::lock(file); });
  }

 private:
  [[noreturn]] static void die() {
    ::kill(::getpid(), SIGKILL);
    for (;;) ::pause();
  }
  template <typename Call>
  auto around(Call call) -> decltype(call()) {
    const bool is_last = left_ > 0 && --left_ == 0;
    if (is_last && moment_ == Moment::kBefore) die();
    const auto result = call();
    if (is_last) die();
    return result;
  }

  uint64_t left_;  // 0: it lives on
  const Moment moment_;
};

}  // namespace store_cases
