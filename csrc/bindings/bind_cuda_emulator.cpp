// The emulated CUDA runtime for tests of what copies on a stream enqueue.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "hicache/cuda_emulator.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::cuda_emulator {
namespace {

std::shared_ptr<CudaEmulator> make_emulator(uint32_t seed, int num_devices, int num_sms,
                                            int compute_major, int max_shared_bytes,
                                            bool reads_pageable, bool has_batches,
                                            int64_t fail_work, int queries_per_step) {
  return std::make_shared<CudaEmulator>(
      EmulatorOptions{seed,
                      num_devices,
                      {num_sms, compute_major, max_shared_bytes, reads_pageable},
                      has_batches,
                      fail_work,
                      queries_per_step});
}

CudaStream stream_of(uintptr_t handle) { return reinterpret_cast<CudaStream>(handle); }

Registrar registrar([](py::module_& m) {
  py::class_<EmulatedCollective, std::shared_ptr<EmulatedCollective>>(m, "EmulatedCollective")
      .def("take",
           [](EmulatedCollective& ranks) -> py::object {
             const auto sent = ranks.take();
             return sent ? py::object(py::bytes(*sent)) : py::object(py::none());
           })
      .def("answer", [](EmulatedCollective& ranks, const py::bytes& bytes) {
        ranks.answer(std::string(bytes));
      });
  py::class_<CudaEmulator, std::shared_ptr<CudaEmulator>>(m, "CudaEmulator")
      .def(py::init(&make_emulator), py::kw_only(), py::arg("seed") = 0, py::arg("num_devices") = 1,
           py::arg("num_sms") = 8, py::arg("compute_major") = 9,
           py::arg("max_shared_bytes") = 227 * 1024, py::arg("reads_pageable") = false,
           py::arg("has_batches") = true, py::arg("fail_work") = -1,
           py::arg("queries_per_step") = 1)
      .def("install",
           [](std::shared_ptr<CudaEmulator> emulator) { replace_cuda_api(std::move(emulator)); })
      .def("uninstall", [](CudaEmulator&) { replace_cuda_api(nullptr); })
      .def("register_host",
           [](CudaEmulator& emulator, uintptr_t address, size_t num_bytes) {
             emulator.register_host(reinterpret_cast<std::byte*>(address), num_bytes);
           })
      .def(
          "allocate",
          [](CudaEmulator& emulator, size_t num_bytes, int device) {
            const DeviceScope scope(emulator, device);
            return reinterpret_cast<uintptr_t>(emulator.allocate_device(num_bytes));
          },
          py::arg("num_bytes"), py::arg("device") = 0)
      .def(
          "create_stream",
          [](CudaEmulator& emulator, int device) {
            const DeviceScope scope(emulator, device);
            return reinterpret_cast<uintptr_t>(emulator.create_stream(StreamPriority::kLow));
          },
          py::arg("device") = 0)
      .def("begin_capture", [](CudaEmulator& emulator,
                               uintptr_t stream) { emulator.begin_capture(stream_of(stream)); })
      .def("end_capture", [](CudaEmulator& emulator,
                             uintptr_t stream) { emulator.end_capture(stream_of(stream)); })
      .def("replay",
           [](CudaEmulator& emulator, uintptr_t stream) { emulator.replay(stream_of(stream)); })
      .def("run_all", &CudaEmulator::run_all)
      .def("step", &CudaEmulator::step)
      .def("collective",
           [](CudaEmulator& emulator, uintptr_t send, size_t send_bytes, uintptr_t recv,
              size_t recv_bytes, uintptr_t stream) {
             return emulator.collective(reinterpret_cast<const void*>(send), send_bytes,
                                        reinterpret_cast<void*>(recv), recv_bytes,
                                        stream_of(stream));
           })
      .def("take_calls", &CudaEmulator::take_calls)
      .def_property_readonly("current_device", &CudaEmulator::current_device)
      .def_property_readonly("num_pending", &CudaEmulator::num_pending)
      .def("fail_call_after", &CudaEmulator::fail_call_after);
});

}  // namespace
}  // namespace hicache::bindings::cuda_emulator
