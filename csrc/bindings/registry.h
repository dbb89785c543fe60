// Every bindings file registers itself here; module.cpp knows none of them by name.
#pragma once

#include <pybind11/pybind11.h>

namespace hicache::bindings {

using RegisterFn = void (*)(pybind11::module_&);

struct Registrar {
  explicit Registrar(RegisterFn fn);
};

}  // namespace hicache::bindings
