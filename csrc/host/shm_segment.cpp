// What lies in the segment of a group, and who of it is alive; see shm_segment.h.
#include "hicache/shm_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <string>

#include "hicache/check.h"

namespace hicache {
namespace {

// State and start time of /proc/PID/stat.
struct ProcessStat {
  static constexpr char kGone = 'X';
  static constexpr char kUnknown = '?';  // e.g. this process has no file descriptor left to look

  char state = kUnknown;
  uint64_t start_time = 0;  // 0: unknown
};

ProcessStat process_stat(int pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {errno == ENOENT ? ProcessStat::kGone : ProcessStat::kUnknown};
  char bytes[1024];
  const ssize_t num_read = ::read(fd, bytes, sizeof bytes);
  const bool is_gone = num_read < 0 && errno == ESRCH;  // since it was opened
  ::close(fd);
  const std::string text(bytes, std::max<ssize_t>(num_read, 0));
  // The command in parentheses may hold anything, so fields are counted from its end.
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return {is_gone ? ProcessStat::kGone : ProcessStat::kUnknown};
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

}  // namespace

ShmSegment::ShmSegment(const std::string& name, int rank, ShmShape shape)
    : path_(kPrefix + name), rank_(rank), shape_(shape), pid_(::getpid()) {
  const char* allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  HICACHE_CHECK(
      kAgreement,
      !name.empty() && name.size() <= 200 && name.find_first_not_of(allowed) == std::string::npos,
      "group name '", name, "': want 1 to 200 letters, digits, '.', '_' or '-'");
}

void ShmSegment::map(int fd) {
  struct stat info;
  HICACHE_CHECK(kAgreement, ::fstat(fd, &info) == 0 && info.st_size >= num_bytes(), "the segment ",
                path_, " has ", info.st_size, " bytes, want ", num_bytes());
  void* base = ::mmap(nullptr, num_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
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
  mine.pid = pid_;
  mine.start_time = process_stat(mine.pid).start_time;
  mine.pid_namespace = pid_namespace();
  mine.presence.store(ShmPresence::kPresent, std::memory_order_release);
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

// A process that its parent has not reaped yet is as dead as one that is gone. Where this cannot be
// told, nobody is dead: the deadline holds.
bool ShmSegment::is_dead(int rank) const {
  const ShmRankLine& peer = line(rank);
  const ShmRankLine& mine = line(rank_);
  if (peer.pid_namespace != mine.pid_namespace) return false;
  if (peer.start_time == 0 || mine.start_time == 0) return false;
  const ProcessStat stat = process_stat(peer.pid);
  if (stat.state == ProcessStat::kUnknown) return false;
  return stat.state == 'Z' || stat.state == ProcessStat::kGone ||
         stat.start_time != peer.start_time;
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
