// Buffers, page ids and sets of copies as Python passes them.
#include "copy_objects.h"

#include <algorithm>
#include <string>

#include "hicache/check.h"

namespace py = pybind11;

namespace hicache::bindings {
namespace {

constexpr const char* kSides[] = {"source", "destination"};

IdWidth width_of(int side, int64_t num_bytes) {
  HICACHE_CHECK(kLayout, num_bytes == 4 || num_bytes == 8, kSides[side],
                " page ids must be int32 or int64, not ", num_bytes, " bytes wide");
  return num_bytes == 4 ? IdWidth::kInt32 : IdWidth::kInt64;
}

// The ids and how many they are.
std::pair<PageIds, int64_t> page_ids(int side, const py::object& ids) {
  if (!py::isinstance<py::array>(ids)) {
    const auto& array = ids.cast<const IdArray&>();
    return {{reinterpret_cast<const void*>(array.address), width_of(side, array.width),
             IdPlace::kDevice},
            array.size};
  }
  const auto array = py::reinterpret_borrow<py::array>(ids);
  const auto dtype = array.dtype();
  HICACHE_CHECK(kLayout, dtype.kind() == 'i', kSides[side],
                " page ids must be int32 or int64, not of kind '", dtype.kind(), "'");
  HICACHE_CHECK(kLayout, array.ndim() == 1 && (array.flags() & py::array::c_style), kSides[side],
                " page ids must be one contiguous dimension, not ndim=", array.ndim());
  return {{array.data(), width_of(side, dtype.itemsize()), IdPlace::kHost}, array.size()};
}

}  // namespace

BufferObject BufferObject::of_range(uintptr_t address, int64_t num_bytes) {
  return {reinterpret_cast<std::byte*>(address), {}, {{address, address + num_bytes}}};
}

BufferObject BufferObject::of_planes(std::vector<uint64_t> addresses, int64_t plane_bytes) {
  HICACHE_CHECK(kLayout, !addresses.empty(), "a table of no planes");
  BufferObject out{reinterpret_cast<std::byte*>(addresses[0]), std::move(addresses), {}};
  for (const uint64_t address : out.planes)
    out.ranges.emplace_back(address, address + static_cast<uint64_t>(plane_bytes));
  std::sort(out.ranges.begin(), out.ranges.end());
  return out;
}

bool BufferObject::overlaps(const BufferObject& other) const {
  for (auto a = ranges.begin(), b = other.ranges.begin();
       a != ranges.end() && b != other.ranges.end();) {
    if (std::max(a->first, b->first) < std::min(a->second, b->second)) return true;
    a->second < b->second ? ++a : ++b;
  }
  return false;
}

void CopySetObject::add(const Plan& plan, std::shared_ptr<BufferObject> src,
                        const py::object& src_ids, std::shared_ptr<BufferObject> dst,
                        const py::object& dst_ids) {
  const uint32_t part = set_.num_parts;
  HICACHE_CHECK(kLayout, part < kMaxParts, "more than ", kMaxParts, " parts in one copy");
  const auto [from, num_src] = page_ids(0, src_ids);
  const auto [to, num_dst] = page_ids(1, dst_ids);
  HICACHE_CHECK(kLayout, num_src == num_dst, "id counts differ: source=", num_src,
                " destination=", num_dst, " part=", part);
  const auto table = [](const BufferObject& side) {
    return side.planes.empty() ? nullptr : side.planes.data();
  };
  set_.parts[part] = {plan, src->base, dst->base, table(*src), table(*dst), from, to, num_src};
  ++set_.num_parts;
  buffers_.insert(buffers_.end(), {std::move(src), std::move(dst)});
  ids_.insert(ids_.end(), {src_ids, dst_ids});
}

int64_t CopySetObject::num_bytes() const {
  int64_t sum = 0;
  for (uint32_t part = 0; part < set_.num_parts; ++part)
    sum += set_.parts[part].num_positions * page_bytes(set_.parts[part].plan);
  return sum;
}

int64_t CopySetObject::num_runs() const {
  int64_t sum = 0;
  for (uint32_t part = 0; part < set_.num_parts; ++part)
    sum += set_.parts[part].num_positions * set_.parts[part].plan.runs_per_page;
  return sum;
}

std::vector<std::tuple<bool, uint32_t, uint32_t>> CopySetObject::shared() const {
  std::vector<std::tuple<bool, uint32_t, uint32_t>> found;
  for (uint32_t i = 0; i < set_.num_parts; ++i)
    for (uint32_t j = 0; j < set_.num_parts; ++j) {
      const BufferObject& dst = *buffers_[2 * j + 1];
      if (buffers_[2 * i]->overlaps(dst)) found.emplace_back(true, i, j);
      if (i < j && buffers_[2 * i + 1]->overlaps(dst)) found.emplace_back(false, i, j);
    }
  return found;
}

std::vector<PartFacts> CopySetObject::facts() const {
  std::vector<PartFacts> all;
  for (uint32_t i = 0; i < set_.num_parts; ++i) {
    const CopyParams& part = set_.parts[i];
    uint64_t bits = part.plan.align_bytes;
    for (const size_t side : {2 * i, 2 * i + 1})
      for (const auto& [begin, end] : buffers_[side]->ranges) bits |= begin;
    const int num_device_lists =
        (part.src_ids.place == IdPlace::kDevice) + (part.dst_ids.place == IdPlace::kDevice);
    all.push_back({part.num_positions, static_cast<uint32_t>(bits & -bits), num_device_lists});
  }
  return all;
}

}  // namespace hicache::bindings
