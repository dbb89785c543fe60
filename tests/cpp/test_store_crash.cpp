// Writers that are killed, inside a system call or wherever they are: what they were told is stored
// is there, nothing is ever wrong, the quota holds and no slot is lost.
//
//   test_store_crash [num_crashes] [seed]
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "store_faults.h"

namespace {

using namespace store_cases;

constexpr uint64_t kNumKeys = 48;
constexpr uint64_t kQuotaSlots = 40;
constexpr int kLifeOfFolder = 24;  // crashes

enum class Fate : uint8_t { kAbsent, kStored, kInFlight };

// Written by the child, read by the parent after its death.
struct Diary {
  Fate fates[kNumKeys];
  uint64_t num_ops;
};

PoolConfig make_config(std::mt19937_64& random) {
  const Durability modes[] = {Durability::kNone, Durability::kBatch, Durability::kPage};
  PoolConfig config = config_of(modes[random() % 3], UINT64_MAX, 16 * kPageSize);
  config.slack_records = 8;
  return config;
}

Numbers some(std::mt19937_64& random, uint64_t most) {
  Numbers numbers;
  for (uint64_t n = 1 + random() % most; n > 0; --n) numbers.push_back(random() % kNumKeys);
  return numbers;
}

// Without a quota every page that was told stored stays.
void live(PagePool& pool, Diary& diary, std::mt19937_64& random) {
  for (int op = 0; op < 60; ++op, ++diary.num_ops) {
    const Numbers numbers = some(random, 8);
    const uint64_t kind = random() % 16;
    if (kind < 8) {
      for (const uint64_t n : numbers)
        if (diary.fates[n] == Fate::kAbsent) diary.fates[n] = Fate::kInFlight;
      EXPECT(all(put(pool, numbers)));
      for (const uint64_t n : numbers) diary.fates[n] = Fate::kStored;
    } else if (kind < 12) {
      for (const uint64_t n : numbers) diary.fates[n] = Fate::kInFlight;
      pool.remove(keys_of(numbers));
      for (const uint64_t n : numbers) diary.fates[n] = Fate::kAbsent;
    } else if (kind == 12) {
      for (Fate& fate : diary.fates) fate = Fate::kInFlight;
      EXPECT(pool.clear() == 0);
      for (Fate& fate : diary.fates) fate = Fate::kAbsent;
    } else {
      get(pool, numbers);
    }
  }
}

void check(PagePool& pool, Diary& diary) {
  Numbers numbers;
  for (uint64_t n = 0; n < kNumKeys; ++n) numbers.push_back(n);
  const std::vector<bool> is_read = get(pool, numbers);
  for (uint64_t n = 0; n < kNumKeys; ++n) {
    EXPECT(diary.fates[n] != Fate::kStored || is_read[n]);
    EXPECT(diary.fates[n] != Fate::kAbsent || !is_read[n]);
    diary.fates[n] = is_read[n] ? Fate::kStored : Fate::kAbsent;
  }
  EXPECT(pool.stats().num_corrupt_pages == 0 && pool.stats().num_read_errors == 0);
}

// Runs `work` in a child that dies in its n-th system call, or when the parent loses patience.
template <typename Work>
void run_and_kill(std::mt19937_64& random, Work work) {
  const bool by_parent = random() % 8 == 0;
  const uint64_t num_calls = by_parent ? 0 : 1 + random() % 120;
  const auto moment = static_cast<FatalFiles::Moment>(random() % 3);
  const uint64_t patience_us = random() % 2000;
  const pid_t child = ::fork();
  EXPECT(child >= 0);
  if (child == 0) {
    FatalFiles files(num_calls, moment);
    work(files);
    ::_exit(0);
  }
  if (by_parent) {
    ::usleep(static_cast<useconds_t>(patience_us));
    ::kill(child, SIGKILL);
  }
  int status = 0;
  EXPECT(::waitpid(child, &status, 0) == child);
  EXPECT((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
         (WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

// A slot that was lost would be missing here.
void check_that_all_room_is_there(PagePool& pool, uint64_t first_number) {
  EXPECT(pool.clear() == 0);
  Numbers numbers;
  for (uint64_t i = 0; i < kQuotaSlots; ++i) numbers.push_back(first_number + i);
  EXPECT(all(put(pool, numbers)));
  EXPECT(all(get(pool, numbers)));
  EXPECT(pool.stats().num_pages == kQuotaSlots && pool.stats().num_evicted_pages == 0);
}

uint64_t num_shards(const std::filesystem::path& folder) {
  return static_cast<uint64_t>(std::distance(std::filesystem::directory_iterator(folder),
                                             std::filesystem::directory_iterator()));
}

int crash_without_quota(uint64_t seed, Diary& diary) {
  std::mt19937_64 random(seed);
  const Folder folder;
  Files files;
  PlainEngine engine(files);
  diary = {};
  PagePool watcher(files, engine, open_dir(files, folder.path), make_config(random));
  for (int i = 0; i < kLifeOfFolder; ++i) {
    run_and_kill(random, [&](Files& fatal) {
      PlainEngine own(fatal);
      PagePool pool(fatal, own, open_dir(fatal, folder.path), make_config(random));
      live(pool, diary, random);
    });
    PagePool pool(files, engine, open_dir(files, folder.path), make_config(random));
    check(pool, diary);
    check(watcher, diary);
    if (i % 4 == 3) {  // another process goes on with the shard
      EXPECT(all(put(pool, {0, 1})));
      diary.fates[0] = diary.fates[1] = Fate::kStored;
    }
    EXPECT(num_shards(folder.path) <= 1);
    random.discard(random() % 100);
  }
  return kLifeOfFolder;
}

// With a quota: pages that were stored go in the order of their age, and only for the room of new
// ones. (Not with kPage, where the pages of one call are in another order after a reopen.)
struct Chronicle {
  struct State {
    uint64_t live[kQuotaSlots + 16];  // told stored, the oldest first
    uint64_t num_live;
    uint64_t first_in_flight, num_in_flight;
    uint64_t next_number;
  };
  State states[2];
  std::atomic<uint32_t> current;  // the parent may kill at any moment: the other one is written
  const State& now() const { return states[current]; }
  void become(const State& next) {
    states[1 - current] = next;
    current = 1 - current;
  }
};

void add_page(Chronicle::State& state, uint64_t number) {
  if (state.num_live == kQuotaSlots) {
    std::copy(state.live + 1, state.live + state.num_live, state.live);
    --state.num_live;
  }
  state.live[state.num_live++] = number;
}

void live_on_quota(PagePool& pool, Chronicle& story, std::mt19937_64& random) {
  for (int op = 0; op < 30; ++op) {
    Chronicle::State state = story.now();
    Numbers numbers;
    state.first_in_flight = state.next_number;
    state.num_in_flight = 1 + random() % 12;
    for (uint64_t i = 0; i < state.num_in_flight; ++i) numbers.push_back(state.next_number++);
    story.become(state);
    EXPECT(all(put(pool, numbers)));
    for (uint64_t i = numbers.size(); i-- > 0;) add_page(state, numbers[i]);  // its last is oldest
    state.num_in_flight = 0;
    story.become(state);
    EXPECT(pool.stats().segment_bytes <= kQuotaSlots * kPageSize);
  }
}

void check_on_quota(PagePool& pool, Chronicle& story) {
  Chronicle::State state = story.now();
  Numbers known(state.live, state.live + state.num_live);
  const uint64_t wanted = state.num_live + state.num_in_flight;
  const uint64_t num_dropped = wanted > kQuotaSlots ? wanted - kQuotaSlots : 0;
  for (uint64_t i = state.num_in_flight; i-- > 0;) known.push_back(state.first_in_flight + i);
  const std::vector<bool> is_read = get(pool, known);
  const uint64_t num_told = state.num_live;
  state.num_live = state.num_in_flight = 0;
  for (uint64_t i = 0; i < known.size(); ++i) {
    EXPECT(is_read[i] || i < num_dropped || i >= num_told);
    if (is_read[i]) state.live[state.num_live++] = known[i];
  }
  EXPECT(state.num_live == pool.stats().num_pages && state.num_live <= kQuotaSlots);
  EXPECT(pool.stats().num_corrupt_pages == 0 && pool.stats().num_read_errors == 0);
  story.become(state);
}

int crash_on_quota(uint64_t seed, Chronicle& story) {
  std::mt19937_64 random(seed);
  const Folder folder;
  Files files;
  PlainEngine engine(files);
  story.become({});
  PoolConfig config = make_config(random);
  config.durability = random() % 2 ? Durability::kNone : Durability::kBatch;
  config.max_bytes = kQuotaSlots * kPageSize;
  for (int i = 0; i < kLifeOfFolder; ++i) {
    run_and_kill(random, [&](Files& fatal) {
      PlainEngine own(fatal);
      PagePool pool(fatal, own, open_dir(fatal, folder.path), config);
      live_on_quota(pool, story, random);
    });
    PagePool pool(files, engine, open_dir(files, folder.path), config);
    check_on_quota(pool, story);
    EXPECT(num_shards(folder.path) <= 1);
    random.discard(random() % 100);
  }
  PagePool pool(files, engine, open_dir(files, folder.path), config);
  check_that_all_room_is_there(pool, uint64_t{1} << 40);
  return kLifeOfFolder;
}

template <typename T>
T& shared() {
  void* memory =
      ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  EXPECT(memory != MAP_FAILED);
  return *static_cast<T*>(memory);
}

}  // namespace

int main(int argc, char** argv) {
  const int num_crashes = argc > 1 ? std::atoi(argv[1]) : 2000;
  uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  auto& diary = shared<Diary>();
  auto& story = shared<Chronicle>();
  for (int done = 0; done < num_crashes; ++seed) {
    std::fprintf(stderr, "%s%llu", done == 0 ? "seeds: " : " ", (unsigned long long)seed);
    done += seed % 2 == 0 ? crash_without_quota(seed, diary) : crash_on_quota(seed, story);
  }
  std::fprintf(stderr, "\n");
  return 0;
}
