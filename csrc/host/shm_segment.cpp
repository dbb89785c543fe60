// Making, entering and removing the shared-memory segment of a group; see shm_segment.h.
#include "hicache/shm_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <sstream>

#include "hicache/check.h"

namespace hicache {
namespace {

constexpr uint64_t kMagic = 0x6863'7469'636b'0001;
constexpr uint32_t kVersion = 1;

struct ProcessStat {
  char state = 'X';
  uint64_t start_time = 0;
};

// State and start time of /proc/PID/stat; 'X' when there is no such process. The command in
// parentheses may hold anything, so fields are counted from its end.
ProcessStat process_stat(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return {};
  std::istringstream fields(text.substr(end + 1));
  ProcessStat stat;
  std::string skipped;
  fields >> stat.state;
  for (int i = 4; i < 22; ++i) fields >> skipped;
  fields >> stat.start_time;
  return stat;
}

uint64_t pid_namespace() {
  struct stat info;
  return ::stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

// A lock of the open file, not of the process: two ranks of one process exclude each other, and it
// goes with its holder however that ends. Asking for it takes nothing.
bool try_lock(int fd) {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

bool is_locked_by_another(int fd) {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

class FileCloser {
 public:
  explicit FileCloser(int fd) : fd_(fd) {}
  ~FileCloser() {
    if (fd_ >= 0) ::close(fd_);
  }
  void release() { fd_ = -1; }

 private:
  int fd_;
};

}  // namespace

ShmSegment::ShmSegment(const std::string& name, int rank, ShmShape shape)
    : path_("/hicache-" + name), rank_(rank), shape_(shape) {
  const char* allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  HICACHE_CHECK(
      kAgreement,
      !name.empty() && name.size() <= 200 && name.find_first_not_of(allowed) == std::string::npos,
      "group name '", name, "': want 1 to 200 letters, digits, '.', '_' or '-'");
}

ShmSegment::~ShmSegment() {
  // The ranks never all met. Rank 0 removes its own name; another rank does if rank 0 is gone.
  if (fd_ >= 0 && (rank_ == 0 || try_lock(fd_)) && is_still_named(fd_)) {
    ::shm_unlink(path_.c_str());
  }
  if (fd_ >= 0) ::close(fd_);
  unmap();
}

bool ShmSegment::try_enter() { return rank_ == 0 ? create() : open_existing(); }

bool ShmSegment::create() {
  const int fd = ::shm_open(path_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 && errno == EEXIST) {
    remove_stale();
    return false;
  }
  HICACHE_CHECK(kAgreement, fd >= 0, "shm_open(", path_, "): ", std::strerror(errno));
  FileCloser closer(fd);
  // Before it is locked, another rank 0 may take the new file for a stale one.
  if (!try_lock(fd) || !is_still_named(fd)) return false;
  closer.release();
  fd_ = fd;
  // Allocated now: a full /dev/shm is an error here and would be a SIGBUS later.
  const int failed = ::posix_fallocate(fd, 0, num_bytes());
  HICACHE_CHECK(kCapacity, failed == 0, "shared memory ", path_, " of ", num_bytes(),
                " bytes: ", std::strerror(failed));
  map();
  new (header_) ShmHeader{};
  header_->version = kVersion;
  header_->uid = ::geteuid();
  header_->shape = shape_;
  header_->refused_rank.store(-1);
  for (int i = 0; i < shape_.size; ++i) new (&lines_[i]) ShmRankLine{};
  claim_line();
  header_->magic.store(kMagic, std::memory_order_release);
  return true;
}

void ShmSegment::remove_stale() const {
  const int fd = ::shm_open(path_.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0 && errno == ENOENT) return;
  HICACHE_CHECK(kAgreement, fd >= 0, "the segment ", path_,
                " exists and cannot be opened: ", std::strerror(errno));
  FileCloser closer(fd);
  check_owner(fd);
  HICACHE_CHECK(kAgreement, try_lock(fd), "the segment ", path_,
                " is in use: another rank 0 waits for its group under this name");
  if (is_still_named(fd)) ::shm_unlink(path_.c_str());
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
    ::close(fd_);
    fd_ = -1;
    throw;
  }
  if (!entered) {
    ::close(fd_);
    fd_ = -1;
  }
  return entered;
}

bool ShmSegment::open_door() {
  check_owner(fd_);
  why_absent_ = "there is a stale segment, whose rank 0 is dead";
  if (!is_locked_by_another(fd_)) return false;
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
  map();
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
  if (magic == 0) return false;
  HICACHE_CHECK(kAgreement, magic == kMagic && header.version == kVersion, "the segment ", path_,
                " is of another version: magic 0x", std::hex, magic, " version ", header.version,
                ", this process has magic 0x", kMagic, " version ", kVersion);
  HICACHE_CHECK(kAgreement, header.uid == ::geteuid(), "the segment ", path_, " was made by uid ",
                header.uid, ", this process runs as uid ", ::geteuid());
  return true;
}

void ShmSegment::map() {
  struct stat info;
  HICACHE_CHECK(kAgreement, ::fstat(fd_, &info) == 0 && info.st_size >= num_bytes(), "the segment ",
                path_, " has ", info.st_size, " bytes, want ", num_bytes());
  void* base = ::mmap(nullptr, num_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  HICACHE_CHECK(kAgreement, base != MAP_FAILED, "mmap(", path_, "): ", std::strerror(errno));
  header_ = static_cast<ShmHeader*>(base);
  lines_ = reinterpret_cast<ShmRankLine*>(header_ + 1);
  slots_ = reinterpret_cast<char*>(lines_ + shape_.size);
}

void ShmSegment::unmap() {
  if (header_ != nullptr) ::munmap(header_, num_bytes());
  header_ = nullptr;
}

void ShmSegment::claim_line() {
  ShmRankLine& mine = line(rank_);
  ShmPresence absent = ShmPresence::kAbsent;
  if (!mine.presence.compare_exchange_strong(absent, ShmPresence::kEntering)) {
    const int32_t pid = mine.pid;
    unmap();
    raise(ErrorKind::kAgreement, "rank ", rank_, " of group ", path_, " is taken by pid ", pid);
  }
  mine.pid = ::getpid();
  mine.start_time = process_stat(mine.pid).start_time;
  mine.pid_namespace = pid_namespace();
  mine.presence.store(ShmPresence::kPresent, std::memory_order_release);
}

void ShmSegment::close_door() {
  if (rank_ == 0 && is_still_named(fd_)) ::shm_unlink(path_.c_str());
  ::close(fd_);
  fd_ = -1;
}

std::string ShmSegment::refusal() const {
  const int32_t rank = header_->refused_rank.load(std::memory_order_acquire);
  if (rank < 0) return {};
  std::ostringstream text;
  text << "rank " << rank << " cannot join group " << path_
       << ": it has size=" << header_->refused_shape.size
       << " num_lanes=" << header_->refused_shape.num_lanes
       << ", the group has size=" << shape_.size << " num_lanes=" << shape_.num_lanes;
  return text.str();
}

int64_t* ShmSegment::slot(int rank, uint64_t tick) const {
  const auto buffer = static_cast<int64_t>(tick % static_cast<uint64_t>(shape_.num_buffers));
  const int64_t slot_idx = int64_t{rank} * shape_.num_buffers + buffer;
  return reinterpret_cast<int64_t*>(slots_ + slot_idx * slot_bytes());
}

// A process that its parent has not reaped yet is as dead as one that is gone.
bool ShmSegment::is_dead(int rank) const {
  const ShmRankLine& peer = line(rank);
  if (peer.pid_namespace != line(rank_).pid_namespace) return false;
  const ProcessStat stat = process_stat(peer.pid);
  return stat.state == 'Z' || stat.state == 'X' || stat.start_time != peer.start_time;
}

bool ShmSegment::is_still_named(int fd) const {
  struct stat mine, named;
  const std::string file = "/dev/shm" + path_;
  return ::fstat(fd, &mine) == 0 && ::stat(file.c_str(), &named) == 0 &&
         mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
}

int64_t ShmSegment::slot_bytes() const {
  return (shape_.num_lanes * 8 + kCacheLine - 1) / kCacheLine * kCacheLine;
}

int64_t ShmSegment::num_bytes() const {
  const auto size = int64_t{shape_.size};
  return static_cast<int64_t>(sizeof(ShmHeader)) +
         size * static_cast<int64_t>(sizeof(ShmRankLine)) +
         size * shape_.num_buffers * slot_bytes();
}

}  // namespace hicache
