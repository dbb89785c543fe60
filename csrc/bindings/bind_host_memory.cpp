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
  PyHostMemory(std::size_t num_bytes, const HostMemoryOptions& options)
      : memory(num_bytes, options) {}
  PyHostMemory(MemoryFile file, std::size_t num_bytes) : memory(file, num_bytes) {}

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
                " views of the host memory of ", host.memory.size(), " bytes at ",
                static_cast<void*>(host.memory.data()),
                " are alive (arrays, memoryviews, buffers of a ticket)");
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

void lock(PyHostMemory& host) {
  py::gil_scoped_release nogil;
  host.memory.lock();
}

auto listed(const std::vector<PinnedRegion>& regions) {
  std::vector<std::pair<std::uintptr_t, std::size_t>> out;
  for (const auto& region : regions) {
    out.emplace_back(reinterpret_cast<std::uintptr_t>(region.address), region.num_bytes);
  }
  return out;
}

std::unique_ptr<PyHostMemory> create(std::size_t num_bytes, Sharing sharing, HugePages huge_pages,
                                     int numa_node, int num_threads) {
  HICACHE_CHECK(kLayout, numa_node >= -1 && num_threads >= 0, "numa_node=", numa_node,
                " or num_threads=", num_threads, " is negative");
  return std::make_unique<PyHostMemory>(
      num_bytes, HostMemoryOptions{sharing, huge_pages, numa_node, num_threads});
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
  m.def(
      "pinned_regions_in",
      [](std::uintptr_t address, std::size_t num_bytes) {
        return listed(pinned_regions_in(reinterpret_cast<const void*>(address), num_bytes));
      },
      py::arg("address"), py::arg("num_bytes"));
  m.def("slot_stride", &slot_stride, py::arg("object_bytes"));
  py::enum_<Sharing>(m, "Sharing")
      .value("PRIVATE", Sharing::kPrivate)
      .value("SHARED", Sharing::kShared);
  py::enum_<HugePages>(m, "HugePages")
      .value("NEVER", HugePages::kNever)
      .value("ADVISE", HugePages::kAdvise)
      .value("MIB_2", HugePages::k2MiB)
      .value("GIB_1", HugePages::k1GiB);
  py::class_<PyHostMemory>(m, "HostMemory", py::custom_type_setup(add_buffer_protocol))
      .def(py::init(&create), py::arg("num_bytes"), py::kw_only(),
           py::arg("sharing") = Sharing::kPrivate, py::arg("huge_pages") = HugePages::kAdvise,
           py::arg("numa_node") = -1, py::arg("num_threads") = 0,
           py::call_guard<py::gil_scoped_release>())
      .def_static(
          "attach",
          [](int fd, std::size_t num_bytes) {
            return std::make_unique<PyHostMemory>(MemoryFile{fd}, num_bytes);
          },
          py::arg("fd"), py::arg("num_bytes"))
      .def("pin", &pin, py::arg("api"), py::arg("object_bytes"), py::kw_only(),
           py::arg("max_chunk_bytes") = kMaxChunkBytes, py::arg("num_halvings") = 2,
           py::keep_alive<1, 2>())
      .def("unpin", &unpin)
      .def("lock", &lock)
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
      .def_property_readonly("fd", [](const PyHostMemory& host) { return host.memory.fd(); })
      .def_property_readonly("regions",
                             [](const PyHostMemory& host) { return listed(host.memory.regions()); })
      .def_readonly("num_exports", &PyHostMemory::num_exports);
}

Registrar registrar(add);

}  // namespace
}  // namespace hicache::bindings::host_memory
