// CopyParams from what Python passes: addresses, and page ids as NumPy arrays.
#pragma once

#include <pybind11/numpy.h>

#include "hicache/check.h"
#include "hicache/copy.h"

namespace hicache::bindings {

inline PageIds host_page_ids(const char* side, const pybind11::array& ids) {
  const auto dtype = ids.dtype();
  HICACHE_CHECK(kLayout, dtype.kind() == 'i' && (dtype.itemsize() == 4 || dtype.itemsize() == 8),
                side, " page ids must be int32 or int64, not kind='", dtype.kind(),
                "' itemsize=", dtype.itemsize());
  HICACHE_CHECK(kLayout, ids.ndim() == 1 && (ids.flags() & pybind11::array::c_style), side,
                " page ids must be one contiguous dimension, not ndim=", ids.ndim());
  return {ids.data(), dtype.itemsize() == 4 ? IdWidth::kInt32 : IdWidth::kInt64};
}

inline CopyParams host_params(const Plan& plan, uintptr_t src, uintptr_t dst,
                              const pybind11::array& src_ids, const pybind11::array& dst_ids) {
  CopyParams params{};
  params.plan = plan;
  params.src = reinterpret_cast<const std::byte*>(src);
  params.dst = reinterpret_cast<std::byte*>(dst);
  params.src_ids = host_page_ids("source", src_ids);
  params.dst_ids = host_page_ids("destination", dst_ids);
  params.num_positions = src_ids.size();
  HICACHE_CHECK(kLayout, src_ids.size() == dst_ids.size(),
                "id counts differ: source=", src_ids.size(), " destination=", dst_ids.size());
  return params;
}

}  // namespace hicache::bindings
