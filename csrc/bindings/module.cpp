// hicache_ext._C: the module itself. It includes no torch header and needs neither a driver nor
// libnccl.
#include <vector>

#include "hicache/check.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings {
namespace {

std::vector<RegisterFn>& registered() {
  static std::vector<RegisterFn> fns;
  return fns;
}

const char* python_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kLayout: return "LayoutError";
    case ErrorKind::kPageIndex: return "PageIndexError";
    case ErrorKind::kCapacity: return "CapacityError";
    case ErrorKind::kStorage: return "StorageError";
    case ErrorKind::kAgreement: return "AgreementError";
    case ErrorKind::kTree: return "TreeError";
    case ErrorKind::kCuda: return "CudaError";
    case ErrorKind::kLifetime: return "LifetimeError";
  }
  return "HiCacheError";
}

void translate(std::exception_ptr raised) {
  if (!raised) return;
  try {
    std::rethrow_exception(raised);
  } catch (const Error& error) {
    py::object type = py::module_::import("hicache_ext.errors").attr(python_name(error.kind()));
    PyErr_SetString(type.ptr(), error.what());
  }
}

}  // namespace

Registrar::Registrar(RegisterFn fn) { registered().push_back(fn); }

}  // namespace hicache::bindings

PYBIND11_MODULE(_C, m) {
  m.doc() = "The data plane of hicache_ext: fixed buffers, no decisions.";
#ifdef HICACHE_WITH_CUDA
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
  py::register_exception_translator(hicache::bindings::translate);
  for (auto fn : hicache::bindings::registered()) fn(m);
}
