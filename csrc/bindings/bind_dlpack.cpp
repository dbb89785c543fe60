// Reading DLPack capsules for hicache_ext.arrays: where the bytes lie, and who keeps them there.
#include <pybind11/pybind11.h>

#include <string_view>

#include "hicache/check.h"
#include "hicache/dlpack.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::dlpack {
namespace {

// Takes over what a capsule holds, and gives it back to its producer when it dies.
class DlpackTensor {
 public:
  explicit DlpackTensor(const py::object& capsule) {
    const char* name = PyCapsule_CheckExact(capsule.ptr()) ? PyCapsule_GetName(capsule.ptr()) : "";
    const std::string_view kind = name == nullptr ? "" : name;
    if (kind == "dltensor") {
      plain_ = take<dl::Managed>(capsule, name, "used_dltensor");
    } else if (kind == "dltensor_versioned") {
      versioned_ = take<dl::ManagedVersioned>(capsule, name, "used_dltensor_versioned");
    } else {
      raise(ErrorKind::kLayout,
            "not a DLPack capsule that can be read: ", py::repr(capsule).cast<std::string>());
    }
    if (versioned_ != nullptr && versioned_->major != dl::kMajorVersion) {
      const uint32_t major = versioned_->major;
      release();
      raise(ErrorKind::kLayout, "DLPack version ", major, " is not known, only 1");
    }
  }
  ~DlpackTensor() { release(); }
  DlpackTensor(const DlpackTensor&) = delete;
  DlpackTensor& operator=(const DlpackTensor&) = delete;

  const dl::Tensor& tensor() const { return plain_ ? plain_->tensor : versioned_->tensor; }
  bool is_read_only() const { return versioned_ && (versioned_->flags & dl::kReadOnly) != 0; }

 private:
  template <typename T>
  static T* take(const py::object& capsule, const char* name, const char* used) {
    auto* managed = static_cast<T*>(PyCapsule_GetPointer(capsule.ptr(), name));
    // The producer's destructor of the capsule frees nothing under this name: it is ours now.
    if (managed == nullptr || PyCapsule_SetName(capsule.ptr(), used) != 0)
      throw py::error_already_set();
    return managed;
  }

  void release() noexcept {
    if (plain_ != nullptr && plain_->deleter != nullptr) plain_->deleter(plain_);
    if (versioned_ != nullptr && versioned_->deleter != nullptr) versioned_->deleter(versioned_);
    plain_ = nullptr;
    versioned_ = nullptr;
  }

  dl::Managed* plain_ = nullptr;
  dl::ManagedVersioned* versioned_ = nullptr;
};

py::tuple tuple_of(const int64_t* values, int32_t num_values) {
  py::tuple out(num_values);
  for (int32_t i = 0; i < num_values; ++i) out[i] = py::int_(values[i]);
  return out;
}

Registrar registrar([](py::module_& m) {
  py::class_<DlpackTensor>(m, "DlpackTensor")
      .def(py::init<const py::object&>(), py::arg("capsule"))
      .def_property_readonly("address",
                             [](const DlpackTensor& self) {
                               const auto& tensor = self.tensor();
                               return reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset;
                             })
      .def_property_readonly("device",
                             [](const DlpackTensor& self) {
                               const auto& device = self.tensor().device;
                               return py::make_tuple(device.type, device.id);
                             })
      .def_property_readonly("dtype",
                             [](const DlpackTensor& self) {
                               const auto& dtype = self.tensor().dtype;
                               return py::make_tuple(dtype.code, dtype.bits, dtype.lanes);
                             })
      .def_property_readonly("shape",
                             [](const DlpackTensor& self) {
                               return tuple_of(self.tensor().shape, self.tensor().ndim);
                             })
      .def_property_readonly(
          "strides",
          [](const DlpackTensor& self) -> py::object {
            if (self.tensor().strides == nullptr) return py::none();
            return tuple_of(self.tensor().strides, self.tensor().ndim);
          },
          "in elements; None: dense")
      .def_property_readonly("is_read_only", &DlpackTensor::is_read_only);
});

}  // namespace
}  // namespace hicache::bindings::dlpack
