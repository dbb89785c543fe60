// The instruction sets that the CPU loops are written for, chosen at run time.
#pragma once

#include <string>

namespace hicache {

enum class Isa { kAuto, kPortable, kAvx2, kAvx512 };

// Whether this machine runs `isa`.
bool has_isa(Isa isa);

// kAuto becomes the widest that this machine has. Throws Error(kLayout) where it has not what is
// asked.
Isa resolve_isa(Isa isa);

// From its name: auto, portable, avx2 or avx512. Throws Error(kLayout).
Isa isa_of(const std::string& name);

}  // namespace hicache
