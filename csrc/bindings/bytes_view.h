// Contiguous bytes that Python lends for a call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>

namespace hicache::bindings {

// A view of any contiguous bytes-like object, held until the end of the call; read-only unless the
// flags are PyBUF_WRITABLE, with which a read-only object is a BufferError.
class BytesView {
 public:
  explicit BytesView(pybind11::handle object, int flags = PyBUF_SIMPLE) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw pybind11::error_already_set();
  }
  ~BytesView() { PyBuffer_Release(&view_); }
  BytesView(const BytesView&) = delete;
  BytesView& operator=(const BytesView&) = delete;

  const std::uint8_t* data() const { return static_cast<const std::uint8_t*>(view_.buf); }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_;
};

}  // namespace hicache::bindings
