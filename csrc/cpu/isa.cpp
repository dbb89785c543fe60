#include "hicache/isa.h"

#include <iterator>

#include "hicache/check.h"

namespace hicache {
namespace {

constexpr const char* kNames[] = {"auto", "portable", "avx2", "avx512"};

}  // namespace

bool has_isa(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2");
  if (isa == Isa::kAvx512) return __builtin_cpu_supports("avx512f");
#endif
  return isa == Isa::kAuto || isa == Isa::kPortable;
}

Isa resolve_isa(Isa isa) {
  HICACHE_CHECK(kLayout, has_isa(isa), "isa='", kNames[static_cast<int>(isa)],
                "': this processor does not have it");
  if (isa != Isa::kAuto) return isa;
  for (const Isa wide : {Isa::kAvx512, Isa::kAvx2})
    if (has_isa(wide)) return wide;
  return Isa::kPortable;
}

Isa isa_of(const std::string& name) {
  for (int i = 0; i < static_cast<int>(std::size(kNames)); ++i)
    if (name == kNames[i]) return static_cast<Isa>(i);
  raise(ErrorKind::kLayout, "isa='", name, "' is none of auto, portable, avx2, avx512");
}

}  // namespace hicache
