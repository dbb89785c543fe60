// The system calls that a store makes, behind one door: tests fail them, stop in the middle of one,
// or undo what was not synced.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hicache::storage {

// Every call returns what the system does, or -errno.
class Files {
 public:
  virtual ~Files() = default;

  virtual int open(int dir, const char* name, int flags, mode_t mode);
  virtual int close(int file);
  virtual int make_dir(int dir, const char* name, mode_t mode);
  virtual int64_t read(int file, void* to, size_t num_bytes, uint64_t offset);
  virtual int64_t write(int file, const void* from, size_t num_bytes, uint64_t offset);
  virtual int allocate(int file, uint64_t offset, uint64_t num_bytes);  // also grows the file
  virtual int truncate(int file, uint64_t num_bytes);
  virtual int sync_data(int file);
  virtual int sync(int file);
  virtual int rename(int dir, const char* from, const char* to);
  virtual int lock(int file);  // -EWOULDBLOCK where another process has it

  // These change nothing and are not worth a fault.
  static int stat(int file, struct stat* out);
  static int stat_in(int dir, const char* name, struct stat* out);  // links are not followed
  static int list(int dir, std::vector<std::string>* names);
};

// A descriptor that is closed at the end.
class File {
 public:
  File() = default;
  File(Files& files, int fd) : files_(&files), fd_(fd) {}
  File(File&& other) noexcept : files_(other.files_), fd_(other.fd_) { other.fd_ = -1; }
  File& operator=(File&& other) noexcept {
    if (this != &other) {
      reset();
      files_ = other.files_;
      fd_ = other.fd_;
      other.fd_ = -1;
    }
    return *this;
  }
  ~File() { reset(); }
  void reset() {
    if (fd_ >= 0) files_->close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  Files* files_ = nullptr;
  int fd_ = -1;
};

// All of it, however often the system takes less: 0, or -errno. A read also: -ENODATA at the end.
int read_all(Files& files, int file, void* to, size_t num_bytes, uint64_t offset);
// Returns how much was written before *error, 0 or an errno.
size_t write_all(Files& files, int file, const void* from, size_t num_bytes, uint64_t offset,
                 int* error);

}  // namespace hicache::storage
