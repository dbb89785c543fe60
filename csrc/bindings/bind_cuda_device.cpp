// What calibration asks of a device: who it is, and memory and a stream to measure with.
#include <pybind11/pybind11.h>

#include "hicache/cuda_api.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::cuda_device {
namespace {

// Memory on a device and a stream beside all others, until it goes.
class DeviceScratch {
 public:
  DeviceScratch(int device, size_t num_bytes) : cuda_(cuda_api()), device_(device) {
    const DeviceScope scope(*cuda_, device_);
    stream_ = cuda_->create_stream(StreamPriority::kHigh);
    try {
      memory_ = cuda_->allocate_device(num_bytes);
    } catch (...) {
      cuda_->destroy(stream_);
      throw;
    }
  }
  ~DeviceScratch() {
    cuda_->synchronize(stream_);
    cuda_->free_device(memory_);
    cuda_->destroy(stream_);
  }
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;

  uintptr_t address() const { return reinterpret_cast<uintptr_t>(memory_); }
  uintptr_t stream() const { return reinterpret_cast<uintptr_t>(stream_); }

 private:
  std::shared_ptr<CudaApi> cuda_;
  int device_;
  std::byte* memory_ = nullptr;
  CudaStream stream_ = nullptr;
};

Registrar registrar([](py::module_& m) {
  py::class_<DeviceIdentity>(m, "DeviceIdentity")
      .def_readonly("uuid", &DeviceIdentity::uuid)
      .def_readonly("pci_bus_id", &DeviceIdentity::pci_bus_id)
      .def_readonly("driver_version", &DeviceIdentity::driver_version)
      .def_readonly("sm_version", &DeviceIdentity::sm_version)
      .def_readonly("num_sms", &DeviceIdentity::num_sms)
      .def_readonly("is_coherent", &DeviceIdentity::is_coherent);
  m.def(
      "device_identity", [](int device) { return cuda_api()->identity(device); },
      py::arg("device"));
  py::class_<DeviceScratch>(m, "DeviceScratch")
      .def(py::init<int, size_t>(), py::kw_only(), py::arg("device"), py::arg("num_bytes"))
      .def_property_readonly("address", &DeviceScratch::address)
      .def_property_readonly("stream", &DeviceScratch::stream);
});

}  // namespace
}  // namespace hicache::bindings::cuda_device
