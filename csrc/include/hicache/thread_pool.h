// Threads that stay: copies of pages are too short to start a thread for each.
#pragma once

#include <cstdint>
#include <functional>

namespace hicache {

// The CPUs that this process may run on.
int num_usable_cpus();

// Runs fn(task) once for every task in [0, num_tasks) on up to num_threads threads, the caller's
// among them, fewer where the process may have no more, and returns after the last. `fn` must not
// throw. Any number of callers may be in it at a time. The threads start at the first use, live to
// the end of the process and are made anew after a fork.
void parallel_for(int64_t num_tasks, int num_threads, const std::function<void(int64_t)>& fn);

}  // namespace hicache
