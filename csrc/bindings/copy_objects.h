// What Python hands to a copy: buffers of pages, page ids, and the CopySet built of them.
#pragma once

#include <pybind11/numpy.h>

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "hicache/copy.h"

namespace hicache::bindings {

// Memory that pages lie in: one range, or one for each plane [layer, kv]. It owns none of it.
struct BufferObject {
  std::byte* base;                                    // of the range, or of plane 0
  std::vector<uint64_t> planes;                       // addresses; empty: one range
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // [begin, end), ascending

  static BufferObject of_range(uintptr_t address, int64_t num_bytes);
  static BufferObject of_planes(std::vector<uint64_t> addresses, int64_t plane_bytes);
  bool overlaps(const BufferObject& other) const;
};

// Page ids in GPU memory; those in host memory come as NumPy arrays.
struct IdArray {
  uintptr_t address;
  int32_t width;  // bytes of an id
  int64_t size;
};

// What the choice of an executor asks of a part.
struct PartFacts {
  int64_t num_positions;
  uint32_t align_bytes;  // of every run, at the addresses where the buffers are
  int num_device_id_lists;
};

class CopySetObject {
 public:
  void add(const Plan& plan, std::shared_ptr<BufferObject> src, const pybind11::object& src_ids,
           std::shared_ptr<BufferObject> dst, const pybind11::object& dst_ids);
  // With plane tables in host memory.
  const CopySet& on_host() const { return set_; }
  int64_t num_bytes() const;  // holes counted as pages
  int64_t num_runs() const;
  std::vector<PartFacts> facts() const;
  // (whether it is a source, part, other part) whose buffer shares a byte with the destination of
  // the other part; of destinations the lower part comes first.
  std::vector<std::tuple<bool, uint32_t, uint32_t>> shared() const;

 private:
  CopySet set_{};
  std::vector<std::shared_ptr<BufferObject>> buffers_;
  std::vector<pybind11::object> ids_;
};

}  // namespace hicache::bindings
