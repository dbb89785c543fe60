// hicache_ext._C: the checksum of a stored page.
#include <string>

#include "bytes_view.h"
#include "hicache/xxh3.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::xxh3 {
namespace {

py::bytes xxh3_128_digest(py::handle object, uint64_t seed, const std::string& isa_name) {
  const BytesView data(object);
  const Isa isa = isa_of(isa_name);
  std::byte digest[kHash128Bytes];
  {
    py::gil_scoped_release unlocked;
    const auto* bytes = reinterpret_cast<const std::byte*>(data.data());
    write_digest(xxh3_128(bytes, static_cast<int64_t>(data.size()), seed, isa), digest);
  }
  return py::bytes(reinterpret_cast<const char*>(digest), sizeof(digest));
}

Registrar registrar([](py::module_& m) {
  m.def("xxh3_128_digest", &xxh3_128_digest, py::arg("data"), py::kw_only(), py::arg("seed") = 0,
        py::arg("isa") = "auto");
});

}  // namespace
}  // namespace hicache::bindings::xxh3
