// Who may enter the segment of a group, and how its name comes and goes; see shm_segment.h.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>

#include "hicache/check.h"
#include "hicache/shm_segment.h"

namespace hicache {
namespace {

constexpr uint64_t kMagic = 0x6863'7469'636b'0001;
constexpr uint64_t kMaking = 0x6863'7469'636b'0000;  // its magic from the first moment on
constexpr uint32_t kVersion = 2;
const std::string kFolder = "/dev/shm";

// Locks of the open file, not of the process: two ranks of one process exclude each other, and a
// lock goes with its holder however that ends. Rank 0 locks the whole file for as long as its ranks
// meet. Who removes a file locks all but its first byte, so that nobody takes it for a living rank
// 0.
enum class LockRange : off_t { kMaker = 0, kRemover = 1 };

bool try_lock(int fd, LockRange range) {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_start = static_cast<off_t>(range);
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

// Asking takes nothing.
bool has_living_maker(int fd) {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_len = static_cast<off_t>(LockRange::kRemover);
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// The files that ranks 0 hold locked. A child of a fork must not have them: the lock would stay
// when the rank is killed, for as long as the child lives. A fork waits while one is opened or
// closed.
class MakerFiles {
 public:
  MakerFiles() {
    ::pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                     [] { instance().drop_in_child(); });
  }
  // Never destroyed: a fork may come at any time.
  static MakerFiles& instance() {
    static auto* const files = new MakerFiles;
    return *files;
  }
  int open(const std::string& path) {
    std::lock_guard lock(mutex_);
    const int fd = ::shm_open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) fds_.insert(fd);
    return fd;
  }
  // In a child that is closed already, and the number may be of another file.
  void close(int fd) {
    std::lock_guard lock(mutex_);
    if (fds_.erase(fd) > 0) ::close(fd);
  }

 private:
  void drop_in_child() {
    for (const int fd : fds_) ::close(fd);
    fds_.clear();
    mutex_.unlock();
  }

  std::mutex mutex_;
  std::set<int> fds_;
};

bool is_still_named(int fd, const std::string& path) {
  struct stat mine, named;
  const std::string file = kFolder + path;
  return ::fstat(fd, &mine) == 0 && ::stat(file.c_str(), &named) == 0 &&
         mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
}

class FileCloser {
 public:
  explicit FileCloser(int fd) : fd_(fd) {}
  ~FileCloser() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileCloser(const FileCloser&) = delete;
  FileCloser& operator=(const FileCloser&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Whether a group must have made it, or a maker may have been killed before it wrote a byte.
enum class LeftBy { kGroup, kAnyMaker };

// A maker that was killed before it wrote a byte left an empty file. One that is young may be of
// somebody else, who is still making it.
bool is_of_a_group(int fd, const struct stat& info) {
  constexpr time_t kOldS = 60;
  if (info.st_size == 0) return ::time(nullptr) - info.st_mtime > kOldS;
  uint64_t magic = 0;
  const ssize_t num_read = ::pread(fd, &magic, sizeof magic, 0);
  return num_read == sizeof magic && (magic == kMagic || magic == kMaking);
}

// What cannot be opened, or is not this user's alone, is left alone.
void remove_if_abandoned(const std::string& path, LeftBy left_by) {
  FileCloser file(::shm_open(path.c_str(), O_RDWR | O_CLOEXEC, 0));
  struct stat info;
  if (file.fd() < 0 || ::fstat(file.fd(), &info) != 0) return;
  if (info.st_uid != ::geteuid() || (info.st_mode & 077) != 0) return;
  if (left_by == LeftBy::kGroup && !is_of_a_group(file.fd(), info)) return;
  if (try_lock(file.fd(), LockRange::kRemover) && is_still_named(file.fd(), path)) {
    ::shm_unlink(path.c_str());
  }
}

}  // namespace

ShmSegment::~ShmSegment() {
  give_up();
  unmap();
}

bool ShmSegment::try_enter() { return rank_ == 0 ? create() : open_existing(); }

bool ShmSegment::create() {
  const int fd = MakerFiles::instance().open(path_);
  if (fd < 0 && errno == EEXIST) {
    why_absent_ = "there is a stale segment, which is being removed";
    remove_stale();
    return false;
  }
  HICACHE_CHECK(kAgreement, fd >= 0, "shm_open(", path_, "): ", std::strerror(errno));
  fd_ = fd;
  // Before it is locked, another rank 0 may take the new file for a stale one.
  if (!try_lock(fd, LockRange::kMaker) || !is_still_named(fd, path_)) return close_file(), false;
  const bool marked = ::pwrite(fd, &kMaking, sizeof kMaking, 0) == sizeof kMaking;
  // Allocated now: a full /dev/shm is an error here and would be a SIGBUS later.
  int failed = marked ? EINTR : errno;
  while (failed == EINTR) failed = ::posix_fallocate(fd, 0, num_bytes());
  HICACHE_CHECK(kCapacity, failed == 0, "shared memory ", path_, " of ", num_bytes(),
                " bytes: ", std::strerror(failed));
  // By a file of its own, since a mapping keeps its file, and so the lock, also in a child.
  const FileCloser unlocked(::shm_open(path_.c_str(), O_RDWR | O_CLOEXEC, 0));
  HICACHE_CHECK(kAgreement, unlocked.fd() >= 0, "shm_open(", path_, "): ", std::strerror(errno));
  map(unlocked.fd());
  new (header_) ShmHeader{kMaking, kVersion, ::geteuid(), shape_, -1, {}};
  for (int i = 0; i < shape_.size; ++i) new (&lines_[i]) ShmRankLine{};
  claim_line();
  header_->magic.store(kMagic, std::memory_order_release);
  remove_abandoned();
  return true;
}

void ShmSegment::remove_stale() const {
  const int fd = ::shm_open(path_.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0 && errno == ENOENT) return;
  HICACHE_CHECK(kAgreement, fd >= 0, "the segment ", path_,
                " exists and cannot be opened: ", std::strerror(errno));
  FileCloser closer(fd);
  check_owner(fd);
  const bool locked = try_lock(fd, LockRange::kRemover);
  // Somebody else who removes it is gone at the next look.
  HICACHE_CHECK(kAgreement, locked || !has_living_maker(fd), "the segment ", path_,
                " is in use: another rank 0 waits for its group under this name");
  if (locked && is_still_named(fd, path_)) ::shm_unlink(path_.c_str());
}

// What groups of this user left that were killed to the last rank while they were meeting: nobody
// will come to replace it.
void ShmSegment::remove_abandoned() const {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(kFolder.c_str()), &::closedir);
  while (const dirent* entry = folder ? ::readdir(folder.get()) : nullptr) {
    const std::string path = std::string("/") + entry->d_name;
    if (path.starts_with(kPrefix) && path != path_) remove_if_abandoned(path, LeftBy::kGroup);
  }
}

bool ShmSegment::open_existing() {
  fd_ = ::shm_open(path_.c_str(), O_RDWR | O_CLOEXEC, 0);
  why_absent_ = "there is no such segment";
  if (fd_ < 0 && errno == ENOENT) return false;
  HICACHE_CHECK(kAgreement, fd_ >= 0, "the segment ", path_,
                " exists and cannot be opened: ", std::strerror(errno));
  bool entered = false;
  try {
    entered = open_door();
  } catch (...) {
    close_file();
    throw;
  }
  if (!entered) close_file();
  return entered;
}

bool ShmSegment::open_door() {
  check_owner(fd_);
  why_absent_ = "there is a stale segment, whose rank 0 is dead";
  if (!has_living_maker(fd_)) return false;
  why_absent_ = "its rank 0 has not finished making it";
  struct stat info;
  if (::fstat(fd_, &info) != 0 || info.st_size < static_cast<off_t>(sizeof(ShmHeader)))
    return false;
  void* page = ::mmap(nullptr, sizeof(ShmHeader), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  HICACHE_CHECK(kAgreement, page != MAP_FAILED, "mmap(", path_, "): ", std::strerror(errno));
  bool complete = false;
  try {
    auto* header = static_cast<ShmHeader*>(page);
    complete = check_header(*header);
    if (complete && header->shape != shape_ && header->refused_rank.load() < 0) {
      header->refused_shape = shape_;
      header->refused_rank.store(rank_, std::memory_order_release);
    }
    HICACHE_CHECK(kAgreement, !complete || header->shape == shape_, "rank ", rank_,
                  " has size=", shape_.size, " num_lanes=", shape_.num_lanes, ", rank 0 of group ",
                  path_, " has size=", header->shape.size, " num_lanes=", header->shape.num_lanes);
  } catch (...) {
    ::munmap(page, sizeof(ShmHeader));
    throw;
  }
  ::munmap(page, sizeof(ShmHeader));
  if (!complete) return false;
  map(fd_);
  claim_line();
  return true;
}

void ShmSegment::check_owner(int fd) const {
  struct stat info;
  HICACHE_CHECK(kAgreement, ::fstat(fd, &info) == 0, "fstat(", path_, "): ", std::strerror(errno));
  HICACHE_CHECK(kAgreement, info.st_uid == ::geteuid(), "the segment ", path_, " belongs to uid ",
                info.st_uid, ", this process runs as uid ", ::geteuid());
  HICACHE_CHECK(kAgreement, (info.st_mode & 077) == 0, "the segment ", path_, " has mode 0",
                std::oct, info.st_mode & 0777, ": others could write to it");
}

// False while rank 0 is still writing it.
bool ShmSegment::check_header(const ShmHeader& header) const {
  const uint64_t magic = header.magic.load(std::memory_order_acquire);
  if (magic == 0 || magic == kMaking) return false;
  HICACHE_CHECK(kAgreement, magic == kMagic && header.version == kVersion, "the segment ", path_,
                " is of another version: magic 0x", std::hex, magic, " version ", header.version,
                ", this process has magic 0x", kMagic, " version ", kVersion);
  HICACHE_CHECK(kAgreement, header.uid == ::geteuid(), "the segment ", path_, " was made by uid ",
                header.uid, ", this process runs as uid ", ::geteuid());
  return true;
}

void ShmSegment::close_door() {
  if (rank_ == 0 && is_still_named(fd_, path_)) ::shm_unlink(path_.c_str());
  close_file();
  is_door_closed_ = true;
}

void ShmSegment::close_file() {
  if (rank_ == 0) {
    MakerFiles::instance().close(fd_);
  } else if (fd_ >= 0) {
    ::close(fd_);
  }
  fd_ = -1;
}

bool ShmSegment::is_forked() const { return ::getpid() != pid_; }

// Rank 0 removes its own name; another rank does if rank 0 is gone.
void ShmSegment::give_up() {
  if (is_door_closed_) return;
  is_door_closed_ = true;
  const bool is_mine = fd_ >= 0 && rank_ == 0 && !is_forked();
  if (is_mine && is_still_named(fd_, path_)) ::shm_unlink(path_.c_str());
  close_file();
  remove_if_abandoned(path_, LeftBy::kAnyMaker);
}

}  // namespace hicache
