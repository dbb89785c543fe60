// Waiting without the GIL, in slices, so that Ctrl-C and other threads get through.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>

#include "hicache/check.h"

namespace hicache::bindings {

inline constexpr double kSliceS = 0.05;

// Whether `step(max_s)` came true within the deadline. A deadline of 0 tries once.
template <typename Step>
bool in_slices(double deadline_s, Step step) {
  HICACHE_CHECK(kAgreement, deadline_s >= 0, "deadline_s=", deadline_s, " < 0");
  const auto start = std::chrono::steady_clock::now();
  for (double left = deadline_s;;) {
    bool done = false;
    {
      pybind11::gil_scoped_release no_gil;
      done = step(std::min(left, kSliceS));
    }
    if (done) return true;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    left = deadline_s -
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (left <= 0) return false;
  }
}

}  // namespace hicache::bindings
