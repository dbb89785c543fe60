// Page ids from NumPy into the native PageIds.
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

}  // namespace hicache::bindings
