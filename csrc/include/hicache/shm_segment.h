// One shared-memory segment per group: who may enter it, where things lie in it, who is still
// alive.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "hicache/shm_note.h"

namespace hicache {

// Everything that two ranks must have in common to share a segment.
struct ShmShape {
  int32_t size;
  int32_t num_buffers;
  int64_t num_lanes;

  bool operator==(const ShmShape&) const = default;
};

struct alignas(kCacheLine) ShmHeader {
  std::atomic<uint64_t> magic;  // rank 0 says last that the segment is complete
  uint32_t version;
  uint32_t uid;
  ShmShape shape;
  // A rank that was turned away tells the ranks that would wait for it in vain.
  std::atomic<int32_t> refused_rank;  // -1: nobody
  ShmShape refused_shape;
};

enum class ShmPresence : uint32_t { kAbsent, kEntering, kPresent, kClosed };

struct alignas(kCacheLine) ShmRankLine {
  std::atomic<ShmPresence> presence;
  int32_t pid;
  uint64_t start_time;     // in clock ticks since boot: tells a reused pid apart; 0: unknown
  uint64_t pid_namespace;  // pids of another container cannot be looked up
  // On a line of its own: polled by the peers while its owner works.
  alignas(kCacheLine) std::atomic<uint64_t> num_issued;
  std::atomic<uint32_t> num_waiters;
  ShmNote note;  // why this rank keeps its peers waiting, or has left
};

static_assert(std::atomic<uint64_t>::is_always_lock_free);

// Rank 0 makes the segment under a fresh name, mode 0600, and holds a file lock on it until every
// rank has entered; then the name is removed, so a group that is killed leaves nothing behind. A
// name without that lock belongs to a group that died while its ranks were still meeting: rank 0
// removes it, the others go on waiting for a live one. Names that nobody will use again are removed
// by the next rank 0 of the same user, of any group.
class ShmSegment {
 public:
  ShmSegment(const std::string& name, int rank, ShmShape shape);
  ~ShmSegment();
  ShmSegment(const ShmSegment&) = delete;
  ShmSegment& operator=(const ShmSegment&) = delete;

  // Maps the segment and claims this rank's line. False: there is none (yet) to enter.
  // AgreementError: it is in use, of another user, of another shape, or this rank is taken.
  bool try_enter();
  bool is_mapped() const { return header_ != nullptr; }
  // Called by each rank once all are present.
  void close_door();
  // Called by a rank that waits no longer for the others; nothing once the door is closed.
  void give_up();
  // Whether this is a child of the rank's process, which must not leave in its name.
  bool is_forked() const;
  // The rank that was turned away, in words; empty if there is none.
  std::string refusal() const;
  // Why try_enter() finds nothing, in words.
  const std::string& why_absent() const { return why_absent_; }

  const std::string& path() const { return path_; }
  const ShmShape& shape() const { return shape_; }
  ShmRankLine& line(int rank) const { return lines_[rank]; }
  int64_t* slot(int rank, uint64_t tick) const;
  bool is_dead(int rank) const;

 private:
  static constexpr const char* kPrefix = "/hicache-";

  bool create();
  void remove_stale() const;
  void remove_abandoned() const;
  bool open_existing();
  bool open_door();
  void close_file();
  void check_owner(int fd) const;
  bool check_header(const ShmHeader& header) const;
  void map(int fd);
  void unmap();
  void claim_line();
  int64_t slot_bytes() const;
  int64_t num_bytes() const;

  std::string path_;
  int rank_;
  ShmShape shape_;
  int32_t pid_;
  int fd_ = -1;  // open until all are present
  bool is_door_closed_ = false;
  ShmHeader* header_ = nullptr;
  ShmRankLine* lines_ = nullptr;
  char* slots_ = nullptr;
  std::string why_absent_;
};

}  // namespace hicache
