// Three bugs, one for each sanitizer: a build that lets one pass checks nothing.
#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

namespace {

int shared = 0;

int read_past_the_end(int size) {
  const std::unique_ptr<char[]> bytes(new char[size]());
  return bytes[size];
}

int overflow(int step) { return INT_MAX - 1 + step; }

int race() {
  std::thread other([] { ++shared; });
  ++shared;
  other.join();
  return shared;
}

}  // namespace

int main(int argc, char** argv) {
  const char* bug = argc == 2 ? argv[1] : "";
  if (std::strcmp(bug, "address") == 0) return read_past_the_end(argc);
  if (std::strcmp(bug, "undefined") == 0) return overflow(argc) == 0;
  if (std::strcmp(bug, "thread") == 0) return race() != 2;
  std::puts("which bug? address, undefined or thread");
  return 2;
}
