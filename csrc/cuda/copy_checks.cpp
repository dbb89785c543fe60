// See copy_checks.h.
#include "copy_checks.h"

#include <algorithm>

#include "copy_executors.h"
#include "hicache/check.h"
#include "hicache/copy_ring.h"
#include "staged_plan.h"

namespace hicache {
namespace {

constexpr int kMinRingBytes = kRingStages * (kSegmentBytes + sizeof(uint64_t));  // ring_bytes()

bool has_host_ids(const CopySet& set) {
  return std::all_of(set.parts, set.parts + set.num_parts, [](const CopyParams& part) {
    return part.src_ids.place == IdPlace::kHost && part.dst_ids.place == IdPlace::kHost;
  });
}

// Whether the memory lies on the host. Pageable memory would be an illegal access in a kernel, and
// a copy engine would go through a buffer of the driver.
bool require_reachable(CudaApi& cuda, const DeviceTraits& traits, int device, const char* side,
                       uint32_t part, const void* address) {
  const MemoryPlace place = cuda.place_of(address);
  HICACHE_CHECK(kCuda, place.kind != MemoryKind::kPageable || traits.reads_pageable, side,
                " buffer of part=", part, " at ", address,
                " is host memory that CUDA does not know: pin it");
  HICACHE_CHECK(kCuda, place.kind != MemoryKind::kDevice || place.device == device, side,
                " buffer of part=", part, " at ", address, " lies on cuda:", place.device,
                ", the copy runs on cuda:", device);
  return place.kind != MemoryKind::kDevice;
}

// The buffer, or all planes of a table where the first lies on the host: those of one device are
// known to lie there, and there are many.
bool is_on_host(CudaApi& cuda, const DeviceTraits& traits, int device, CopySide side, uint32_t idx,
                const CopyParams& part) {
  const bool is_source = side == CopySide::kSource;
  const char* const name = is_source ? "source" : "destination";
  const uint64_t* const planes = is_source ? part.src_planes : part.dst_planes;
  const void* const base = is_source ? part.src : part.dst;
  const bool on_host = require_reachable(cuda, traits, device, name, idx, base);
  if (planes == nullptr || !on_host) return on_host;
  for (size_t i = 0; i < num_planes(part.plan, side); ++i)
    require_reachable(cuda, traits, device, name, idx, reinterpret_cast<const void*>(planes[i]));
  return true;
}

// Where all parts go: staging needs to know its host side.
struct Places {
  bool src_on_host = false, src_on_device = false, dst_on_host = false, dst_on_device = false;
};

Places find_places(CudaApi& cuda, const DeviceTraits& traits, int device, const CopySet& set) {
  Places places;
  for (uint32_t i = 0; i < set.num_parts; ++i) {
    const CopyParams& part = set.parts[i];
    if (part.num_positions == 0) continue;
    const bool src = is_on_host(cuda, traits, device, CopySide::kSource, i, part);
    const bool dst = is_on_host(cuda, traits, device, CopySide::kDestination, i, part);
    (src ? places.src_on_host : places.src_on_device) = true;
    (dst ? places.dst_on_host : places.dst_on_device) = true;
  }
  return places;
}

void require_host_ids(const char* executor, const CopySet& set) {
  for (uint32_t i = 0; i < set.num_parts; ++i)
    for (const auto& [side, ids] : {std::pair{"source", set.parts[i].src_ids},
                                    std::pair{"destination", set.parts[i].dst_ids}})
      HICACHE_CHECK(kLayout, ids.place == IdPlace::kHost, executor,
                    " needs page ids on the host: the ", side, " ids of part=", i,
                    " lie on the device");
}

// A chunk has whole pages, so its layers arrive together.
void require_no_layer_order(const CopySet& set) {
  for (uint32_t i = 0; i < set.num_parts; ++i)
    HICACHE_CHECK(kLayout, num_steps(set.parts[i].plan) == 1,
                  "staged moves whole pages, and the plan of part=", i, " is in order of layers");
}

void require_room(const CopySet& set, const StagingRing* ring) {
  const size_t slot_bytes = ring == nullptr ? kStagingBytes / kNumSlots : ring->slot_bytes();
  for (uint32_t i = 0; i < set.num_parts; ++i) {
    const int64_t num_bytes = packed_stride(set.parts[i].plan);
    HICACHE_CHECK(kLayout, static_cast<size_t>(num_bytes) <= slot_bytes, "a page of part=", i,
                  " takes ", num_bytes, " bytes, and a slot of the staging memory has ",
                  slot_bytes);
  }
}

CopySide host_side_of(const Places& places) {
  const bool to_host = !places.src_on_host && !places.dst_on_device;
  const bool to_device = !places.src_on_device && !places.dst_on_host;
  HICACHE_CHECK(kLayout, to_host || to_device,
                "staged copies go between the device and the host, in one direction");
  return to_host ? CopySide::kDestination : CopySide::kSource;
}

void check_executor(const CopySet& set, const CudaCopyOptions& options, const Places& places,
                    CheckedCopy& checked) {
  switch (options.executor) {
    case CudaExecutor::kSmReg: return;
    case CudaExecutor::kSmBulk:
      HICACHE_CHECK(kCuda, checked.traits.compute_major >= 9,
                    "sm_bulk needs compute capability 9.0 or later, cuda:", options.device, " has ",
                    checked.traits.compute_major, ".x");
      HICACHE_CHECK(kCuda, checked.traits.max_shared_bytes >= kMinRingBytes, "sm_bulk needs ",
                    kMinRingBytes, " bytes of shared memory for a block, cuda:", options.device,
                    " has ", checked.traits.max_shared_bytes);
      return require_bulk_runs(set);
    case CudaExecutor::kCeBatch: return require_host_ids("ce_batch", set);
    case CudaExecutor::kStaged:
      require_host_ids("staged", set);
      HICACHE_CHECK(kCuda, !checked.is_captured,
                    "staged cannot be captured: a replay would share the staging memory");
      HICACHE_CHECK(kCuda, options.ring == nullptr || options.ring->device() == options.device,
                    "the staging memory lies on cuda:", options.ring->device(),
                    ", the copy runs on cuda:", options.device);
      require_no_layer_order(set);
      require_room(set, options.ring.get());
      checked.host_side = host_side_of(places);
  }
}

}  // namespace

CheckedCopy check_cuda_copy(CudaApi& cuda, const CopySet& set, const CudaCopyOptions& options) {
  CheckedCopy checked{};
  const int stream_device = cuda.device_of(options.stream);
  HICACHE_CHECK(kCuda, stream_device == options.device, "the stream is one of cuda:", stream_device,
                ", the copy runs on cuda:", options.device);
  checked.traits = cuda.traits(options.device);
  checked.is_captured = cuda.is_capturing(options.stream);
  checked.has_host_ids = has_host_ids(set);
  const Places places = find_places(cuda, checked.traits, options.device, set);
  checked.with_host = places.src_on_host || places.dst_on_host;
  HICACHE_CHECK(kCuda, !checked.is_captured || !options.priority,
                "a captured copy has no priority: the graph's own stream is its stream");
  check_executor(set, options, places, checked);
  checked.num_bytes = check_page_ids(set);
  return checked;
}

}  // namespace hicache
