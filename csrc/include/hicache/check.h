// Errors of the native layer: typed, with the values in the message, built only when they are
// raised.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace hicache {

// Which Python class of hicache_ext.errors the bindings raise.
enum class ErrorKind {
  kLayout,
  kPageIndex,
  kCapacity,
  kStorage,
  kAgreement,
  kTree,
  kCuda,
  kLifetime
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

template <typename... Args>
[[noreturn]] void raise(ErrorKind kind, const Args&... args) {
  std::ostringstream message;
  (message << ... << args);
  throw Error(kind, message.str());
}

}  // namespace hicache

// HICACHE_CHECK(kLayout, n > 0, "num_pages=", n): the message is formatted only when the check
// fails.
#define HICACHE_CHECK(kind, condition, ...)                      \
  do {                                                           \
    if (!(condition)) [[unlikely]]                               \
      ::hicache::raise(::hicache::ErrorKind::kind, __VA_ARGS__); \
  } while (0)
