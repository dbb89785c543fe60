// One contiguous run with the widest stores of the machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hicache {

using CopyRunFn = void (*)(std::byte* dst, const std::byte* src, int64_t num_bytes);

// Streaming stores, to be followed by finish_streaming(); nullptr where the machine has none.
CopyRunFn streaming_avx2();
void copy_run_portable(std::byte* dst, const std::byte* src, int64_t num_bytes);

// Makes streamed stores visible before the thread reports that it is done.
void finish_streaming();

}  // namespace hicache
