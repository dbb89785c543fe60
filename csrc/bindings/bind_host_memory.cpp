// hicache_ext._C.HostMemory: the mapping as a Python buffer that counts the views taken of it.
#include <pybind11/stl.h>

#include <memory>
#include <utility>

#include "hicache/check.h"
#include "hicache/host_memory.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::host_memory {
namespace {

// Python sees the bytes through the buffer protocol. The exports are counted, which pybind11's own
// buffer support does not do, so that close() can refuse instead of pulling memory from under a
// view.
struct PyHostMemory {
  PyHostMemory(std::size_t num_bytes, int num_threads) : memory(num_bytes, num_threads) {}

  HostMemory memory;
  Py_ssize_t num_exports = 0;  // guarded by the GIL
  bool is_closed = false;      // set before the GIL is released to unmap
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  auto* host = py::handle(self).cast<PyHostMemory*>();
  if (host->is_closed) {
    view->obj = nullptr;
    const py::object type = py::module_::import("hicache_ext.errors").attr("LifetimeError");
    PyErr_SetString(type.ptr(), "the host memory is closed");
    return -1;
  }
  const auto num_bytes = static_cast<Py_ssize_t>(host->memory.size());
  if (PyBuffer_FillInfo(view, self, host->memory.data(), num_bytes, 0, flags) != 0) return -1;
  ++host->num_exports;
  return 0;
}

void release_buffer(PyObject* self, Py_buffer*) {
  --py::handle(self).cast<PyHostMemory*>()->num_exports;
}

void add_buffer_protocol(PyHeapTypeObject* type) {
  type->as_buffer.bf_getbuffer = get_buffer;
  type->as_buffer.bf_releasebuffer = release_buffer;
  type->ht_type.tp_as_buffer = &type->as_buffer;
}

void close(PyHostMemory& host) {
  if (host.is_closed) return;
  HICACHE_CHECK(kLifetime, host.num_exports == 0, "close: ", host.num_exports,
                " views of the host memory are alive (arrays, memoryviews, buffers of a ticket)");
  host.is_closed = true;
  py::gil_scoped_release nogil;
  host.memory.close();
}

void pin(PyHostMemory& host, const PinApi* api, std::size_t object_bytes,
         std::size_t max_chunk_bytes, int num_halvings) {
  HICACHE_CHECK(kLifetime, !host.is_closed, "pin: the host memory is closed");
  HICACHE_CHECK(kCuda, api != nullptr, "pin: no PinApi (no CUDA build, driver or device)");
  py::gil_scoped_release nogil;
  host.memory.pin(*api, object_bytes, max_chunk_bytes, num_halvings);
}

void unpin(PyHostMemory& host) {
  py::gil_scoped_release nogil;
  host.memory.unpin();
}

auto regions(const PyHostMemory& host) {
  std::vector<std::pair<std::uintptr_t, std::size_t>> out;
  for (const auto& region : host.memory.regions()) {
    out.emplace_back(reinterpret_cast<std::uintptr_t>(region.address), region.num_bytes);
  }
  return out;
}

PinApi pin_api_from_addresses(std::uintptr_t pin, std::uintptr_t unpin, std::uintptr_t clear) {
  return {reinterpret_cast<decltype(PinApi::pin)>(pin),
          reinterpret_cast<decltype(PinApi::unpin)>(unpin),
          reinterpret_cast<decltype(PinApi::clear_error)>(clear), nullptr};
}

void add(py::module_& m) {
  py::class_<PinApi>(m, "PinApi")
      .def(py::init(&pin_api_from_addresses), py::arg("pin"), py::arg("unpin"),
           py::arg("clear_error"));
  m.def("cuda_pin_api", &cuda_pin_api, py::return_value_policy::reference);
  m.def("pin_chunk_bytes", &pin_chunk_bytes, py::arg("object_bytes"), py::arg("max_chunk_bytes"));
  m.attr("MAX_PIN_CHUNK_BYTES") = kMaxChunkBytes;
  py::class_<PyHostMemory>(m, "HostMemory", py::custom_type_setup(add_buffer_protocol))
      .def(py::init<std::size_t, int>(), py::arg("num_bytes"), py::arg("num_threads") = 0,
           py::call_guard<py::gil_scoped_release>())
      .def("pin", &pin, py::arg("api"), py::arg("object_bytes"), py::kw_only(),
           py::arg("max_chunk_bytes") = kMaxChunkBytes, py::arg("num_halvings") = 2,
           py::keep_alive<1, 2>())
      .def("unpin", &unpin)
      .def("close", &close)
      .def_property_readonly("address",
                             [](const PyHostMemory& host) {
                               return reinterpret_cast<std::uintptr_t>(host.memory.data());
                             })
      .def_property_readonly("num_bytes",
                             [](const PyHostMemory& host) { return host.memory.size(); })
      .def_property_readonly("mapped_bytes",
                             [](const PyHostMemory& host) { return host.memory.mapped_bytes(); })
      .def_property_readonly("is_pinned",
                             [](const PyHostMemory& host) { return host.memory.is_pinned(); })
      .def_property_readonly("is_closed", [](const PyHostMemory& host) { return host.is_closed; })
      .def_property_readonly("regions", &regions)
      .def_readonly("num_exports", &PyHostMemory::num_exports);
}

Registrar registrar(add);

}  // namespace
}  // namespace hicache::bindings::host_memory
