// A strip of runs with the widest stores of the machine.
#pragma once

#include "hicache/copy.h"
#include "hicache/isa.h"

namespace hicache {

using CopyStripFn = void (*)(const Strip& strip);

// memcpy of every run: the destination stays in the caches.
void copy_strip(const Strip& strip);

// Non-temporal stores, to be followed by finish_streaming(); copy_strip where `isa`, a resolved
// one, has none.
CopyStripFn streaming(Isa isa);

// The fastest for a copy of so many bytes: non-temporal where it is too large to stay in a cache.
CopyStripFn widest_copy(int64_t num_bytes);

// Makes streamed stores visible before the thread reports that it is done.
void finish_streaming();

}  // namespace hicache
