// The tick over shared memory; the protocol is described in shm_group.h.
#include "hicache/shm_group.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>
#include <sstream>
#include <thread>

#include "hicache/check.h"

namespace hicache {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kMeetPollNs = kMs;
constexpr int64_t kLivenessNs = 20 * kMs;  // how long a dead peer goes unnoticed
// Two ranks on cores of their own meet by spinning, if that outlasts waking a core that sleeps:
// else each wait puts one of them to sleep, and the next one too. Two ranks that the scheduler has
// put on one core must not spin, since each keeps the other from running.
constexpr int64_t kLongSpinNs = 50'000;
constexpr int64_t kShortSpinNs = 2'000;
constexpr uint32_t kTryLongEvery = 32;

int64_t now_ns() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

timespec as_timespec(int64_t ns) { return {ns / 1'000'000'000, ns % 1'000'000'000}; }

// The kernel compares 32 bits: the low half of the counter, which is what changes.
uint32_t* futex_word(std::atomic<uint64_t>& counter) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  return reinterpret_cast<uint32_t*>(&counter);
}

void futex_wait(std::atomic<uint64_t>& counter, uint64_t seen, int64_t max_ns) {
  const timespec timeout = as_timespec(max_ns);
  ::syscall(SYS_futex, futex_word(counter), FUTEX_WAIT, static_cast<uint32_t>(seen), &timeout,
            nullptr, 0);
}

void futex_wake_all(std::atomic<uint64_t>& counter) {
  ::syscall(SYS_futex, futex_word(counter), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// A cache line that stays as it was kBuffers ticks ago is not written: it then stays in the caches
// of the peers, and most lines of most ticks do.
void write_changes(int64_t* slot, const int64_t* lanes, int64_t num_lanes) {
  constexpr int64_t kLine = kCacheLine / sizeof(int64_t);
  for (int64_t i = 0; i < num_lanes; i += kLine) {
    const size_t num_bytes = std::min(kLine, num_lanes - i) * sizeof(int64_t);
    if (std::memcmp(slot + i, lanes + i, num_bytes) != 0) {
      std::memcpy(slot + i, lanes + i, num_bytes);
    }
  }
}

ShmShape checked_shape(int rank, int size, int64_t num_lanes) {
  HICACHE_CHECK(kAgreement, 1 <= size && size <= 1024, "size=", size, " not in [1, 1024]");
  HICACHE_CHECK(kAgreement, 0 <= rank && rank < size, "rank=", rank, " not in [0, ", size, ")");
  HICACHE_CHECK(kAgreement, 1 <= num_lanes && num_lanes <= (1 << 24), "num_lanes=", num_lanes,
                " not in [1, 2^24]");
  return {size, ShmGroup::kBuffers, num_lanes};
}

}  // namespace

ShmGroup::ShmGroup(const std::string& name, int rank, int size, int64_t num_lanes)
    : segment_(name, rank, checked_shape(rank, size, num_lanes)), rank_(rank) {}

ShmGroup::~ShmGroup() { close(); }

// Whether all ranks have come; throws if one is dead, has left or was refused.
bool ShmGroup::have_all_come() const {
  const auto presence = [&](int rank) {
    return segment_.line(rank).presence.load(std::memory_order_acquire);
  };
  int left = -1;
  for (int i = 0; i < size(); ++i) {
    if (presence(i) == ShmPresence::kClosed) left = i;
    HICACHE_CHECK(kAgreement, presence(i) != ShmPresence::kPresent || !segment_.is_dead(i),
                  "group ", segment_.path(), ": rank ", i, " (pid ", segment_.line(i).pid,
                  ") died while the ranks were meeting");
  }
  const std::string refusal = segment_.refusal();
  HICACHE_CHECK(kAgreement, refusal.empty(), refusal);
  // Looked at after `left`: a rank that closed after a proper start had seen all the others.
  bool all = true;
  for (int i = 0; i < size(); ++i) all = all && presence(i) >= ShmPresence::kPresent;
  HICACHE_CHECK(kAgreement, all || left < 0, "group ", segment_.path(), ": rank ", left, " (pid ",
                segment_.line(std::max(left, 0)).pid, ") left while the ranks were meeting");
  return all;
}

bool ShmGroup::attach(double max_s) {
  HICACHE_CHECK(kAgreement, !closed_, "rank ", rank_, ": group ", segment_.path(), " is closed");
  const int64_t deadline = now_ns() + static_cast<int64_t>(max_s * 1e9);
  while (!attached_) {
    if ((segment_.is_mapped() || segment_.try_enter()) && have_all_come()) {
      segment_.close_door();
      attached_ = true;
    } else if (now_ns() >= deadline) {
      return false;
    } else {
      std::this_thread::sleep_for(std::chrono::nanoseconds(kMeetPollNs));
    }
  }
  return true;
}

std::string ShmGroup::describe_absent() const {
  std::ostringstream text;
  text << "group " << segment_.path() << ", rank " << rank_ << " of " << size() << ": ";
  if (!segment_.is_mapped()) {
    text << "rank 0 has not opened the group; " << segment_.why_absent();
    return text.str();
  }
  text << "absent ranks:";
  for (int i = 0; i < size(); ++i) {
    if (segment_.line(i).presence.load() < ShmPresence::kPresent) text << ' ' << i;
  }
  return text.str();
}

void ShmGroup::check_usable() const {
  HICACHE_CHECK(kAgreement, !closed_, "rank ", rank_, ": group ", segment_.path(), " is closed");
  HICACHE_CHECK(kAgreement, attached_, "rank ", rank_, ": group ", segment_.path(),
                " has not met yet");
}

void ShmGroup::issue(const int64_t* lanes) {
  check_usable();
  HICACHE_CHECK(kAgreement, num_issued_ - num_collected_ < kDepth, "rank ", rank_, ": ", kDepth,
                " ticks are uncollected already");
  write_changes(segment_.slot(rank_, num_issued_), lanes, num_lanes());
  ++num_issued_;
  ShmRankLine& mine = segment_.line(rank_);
  // Sequentially consistent on both sides: either this rank sees the waiter, or the waiter sees
  // the new number before it sleeps.
  mine.num_issued.store(num_issued_, std::memory_order_seq_cst);
  if (mine.num_waiters.load(std::memory_order_seq_cst) > 0) futex_wake_all(mine.num_issued);
}

bool ShmGroup::has_issued(int rank) const {
  return segment_.line(rank).num_issued.load(std::memory_order_acquire) > num_collected_;
}

int ShmGroup::first_missing() const {
  for (int i = 0; i < size(); ++i) {
    if (!has_issued(i)) return i;
  }
  return -1;
}

std::string ShmGroup::issued_by_rank() const {
  std::ostringstream text;
  text << "; ticks issued by each rank: [";
  for (int i = 0; i < size(); ++i) {
    text << (i == 0 ? "" : ", ") << segment_.line(i).num_issued.load();
  }
  text << ']';
  return text.str();
}

// A rank that will never issue the oldest tick: in words, or empty. Dead ones are looked for once
// in kLivenessNs, since that reads /proc.
const std::string& ShmGroup::lost_rank() {
  const int64_t now = now_ns();
  const bool look_for_dead = now - last_liveness_ns_ >= kLivenessNs;
  if (look_for_dead) last_liveness_ns_ = now;
  for (int i = 0; i < size() && lost_.empty(); ++i) {
    if (has_issued(i)) continue;
    const ShmRankLine& line = segment_.line(i);
    const bool closed = line.presence.load(std::memory_order_acquire) == ShmPresence::kClosed;
    const bool lost = closed || (look_for_dead && i != rank_ && segment_.is_dead(i));
    // It may have issued the tick and then ended.
    if (!lost || has_issued(i)) continue;
    const std::string note = line.note.read();
    std::ostringstream text;
    text << "tick " << num_collected_ << ": rank " << i << " (pid " << line.pid << ") "
         << (closed ? "has closed the group" : "is dead") << " after " << line.num_issued.load()
         << " ticks" << (note.empty() ? "" : ": ") << note << issued_by_rank();
    lost_ = text.str();
  }
  return lost_;
}

bool ShmGroup::ready() {
  check_usable();
  if (num_issued_ == num_collected_) return false;
  return first_missing() < 0 || !lost_rank().empty();
}

void ShmGroup::sleep_for(int peer, int64_t max_ns) {
  ShmRankLine& line = segment_.line(peer);
  line.num_waiters.fetch_add(1, std::memory_order_seq_cst);
  const uint64_t seen = line.num_issued.load(std::memory_order_seq_cst);
  const bool closed = line.presence.load(std::memory_order_seq_cst) == ShmPresence::kClosed;
  if (seen <= num_collected_ && !closed) futex_wait(line.num_issued, seen, max_ns);
  line.num_waiters.fetch_sub(1, std::memory_order_seq_cst);
}

// As long as the last wait suggests; now and then long, since ranks move between cores.
int64_t ShmGroup::next_spin_ns() {
  const bool try_long = ++num_spins_ % kTryLongEvery == 0;
  return spins_pay_ || try_long ? kLongSpinNs : kShortSpinNs;
}

bool ShmGroup::spin_until(int64_t end_ns) {
  bool all = false;
  while (!all && now_ns() < end_ns) {
    for (int i = 0; i < 32; ++i) relax();
    all = first_missing() < 0;
  }
  spins_pay_ = all;
  return all;
}

bool ShmGroup::wait(double max_s) {
  check_usable();
  HICACHE_CHECK(kAgreement, num_issued_ > num_collected_, "rank ", rank_, ": no tick is issued");
  if (first_missing() < 0) return true;
  HICACHE_CHECK(kAgreement, lost_.empty(), lost_);
  if (max_s <= 0) return false;
  const int64_t start = now_ns();
  const int64_t deadline = start + static_cast<int64_t>(max_s * 1e9);
  if (spin_until(std::min(start + next_spin_ns(), deadline))) return true;
  for (int64_t now = now_ns(); now < deadline; now = now_ns()) {
    const int peer = first_missing();
    if (peer < 0) return true;
    sleep_for(peer, std::min(kLivenessNs, deadline - now));
    HICACHE_CHECK(kAgreement, lost_rank().empty(), lost_);
  }
  return first_missing() < 0;
}

void ShmGroup::collect(int64_t* out) {
  check_usable();
  const int missing = first_missing();
  HICACHE_CHECK(kAgreement, num_issued_ > num_collected_ && missing < 0, "tick ", num_collected_,
                " is not there: rank ", missing);
  std::memcpy(out, segment_.slot(0, num_collected_), num_lanes() * sizeof(int64_t));
  for (int i = 1; i < size(); ++i) {
    const int64_t* lanes = segment_.slot(i, num_collected_);
    for (int64_t lane = 0; lane < num_lanes(); ++lane) out[lane] = std::min(out[lane], lanes[lane]);
  }
  ++num_collected_;
}

std::string ShmGroup::describe_late(double deadline_s) const {
  std::ostringstream text;
  text << "tick " << num_collected_ << ", rank " << rank_ << " of " << size() << ": late ranks:";
  for (int i = 0; i < size(); ++i) {
    if (has_issued(i)) continue;
    const std::string note = segment_.line(i).note.read();
    text << ' ' << i << " (pid " << segment_.line(i).pid << (note.empty() ? "" : ": ") << note
         << ')';
  }
  text << " after " << deadline_s << " s" << issued_by_rank();
  return text.str();
}

void ShmGroup::note(const std::string& text) {
  check_usable();
  segment_.line(rank_).note.write(text);
}

void ShmGroup::close() {
  if (closed_) return;
  closed_ = true;
  if (segment_.is_mapped() && !segment_.is_forked()) {
    ShmRankLine& mine = segment_.line(rank_);
    mine.presence.store(ShmPresence::kClosed, std::memory_order_seq_cst);
    futex_wake_all(mine.num_issued);
  }
  segment_.give_up();
}

}  // namespace hicache
