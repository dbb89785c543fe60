// The MIN of a tick among the ranks of one host, over shared memory: no server, no system call
// while everyone is in time.
//
// Each rank owns a line with the number of ticks it has issued and kBuffers slots for its lanes. It
// writes tick k into slot k % kBuffers and then raises its number; whoever collects tick k waits
// for every number to exceed k and reduces the slots by itself. A rank issues tick k + kDepth only
// after it has collected tick k, so everyone has issued k by then, and has finished reading
// k - kDepth: with 2 * kDepth slots nobody's write meets anybody's read, and no lock is needed.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "hicache/shm_segment.h"

namespace hicache {

class ShmGroup {
 public:
  static constexpr int kDepth = 2;  // ticks issued and not yet collected
  static constexpr int kBuffers = 2 * kDepth;

  ShmGroup(const std::string& name, int rank, int size, int64_t num_lanes);
  ~ShmGroup();
  ShmGroup(const ShmGroup&) = delete;
  ShmGroup& operator=(const ShmGroup&) = delete;

  // Meets the other ranks; returns whether all are there after at most `max_s`. Call it again if
  // not. Throws as soon as that is hopeless.
  bool attach(double max_s);
  std::string describe_absent() const;

  void issue(const int64_t* lanes);
  // Whether the oldest uncollected tick is there, or can never be.
  bool ready();
  // Waits at most `max_s` for the oldest uncollected tick; throws if a rank that has not issued it
  // is dead or has closed.
  bool wait(double max_s);
  // The minimum of a tick that wait() said is there.
  void collect(int64_t* out);
  // The ranks that wait() waited for in vain, and how many ticks each rank has issued.
  std::string describe_late(double deadline_s) const;
  // What peers are shown when they wait for this rank in vain.
  void note(const std::string& text);
  void close();

  int64_t num_lanes() const { return segment_.shape().num_lanes; }
  int rank() const { return rank_; }
  int size() const { return segment_.shape().size; }

 private:
  bool have_all_come() const;
  void check_usable() const;
  bool has_issued(int rank) const;
  int first_missing() const;
  int64_t next_spin_ns();
  bool spin_until(int64_t end_ns);
  void sleep_for(int peer, int64_t max_ns);
  const std::string& lost_rank();
  std::string issued_by_rank() const;

  ShmSegment segment_;
  int rank_;
  uint64_t num_issued_ = 0;
  uint64_t num_collected_ = 0;
  std::string lost_;  // a rank that will never issue the oldest tick: no later one can complete
  int64_t last_liveness_ns_ = 0;
  uint32_t num_spins_ = 0;
  bool spins_pay_ = true;
  bool attached_ = false;
  bool closed_ = false;
};

}  // namespace hicache
