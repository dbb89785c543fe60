// hicache_ext._C: page keys. Buffers are borrowed for the call; the GIL is released while hashing.
#include <string>
#include <vector>

#include "bytes_view.h"
#include "hicache/check.h"
#include "hicache/sha256.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::keys {
namespace {

constexpr std::size_t kTokenBytes = 4;

Sha256Impl parse_impl(const std::string& name) {
  if (name == "auto") return Sha256Impl::kAuto;
  if (name == "portable") return Sha256Impl::kPortable;
  HICACHE_CHECK(kStorage, name == "sha_ni", "sha256 impl=", name,
                ", expected auto, portable or sha_ni");
  return Sha256Impl::kShaNi;
}

py::bytes digest_of(py::handle object, const std::string& impl_name) {
  const BytesView data(object);
  const Sha256Impl impl = parse_impl(impl_name);
  std::uint8_t digest[kSha256Bytes];
  {
    py::gil_scoped_release unlocked;
    sha256(data.data(), data.size(), digest, impl);
  }
  return py::bytes(reinterpret_cast<const char*>(digest), kSha256Bytes);
}

py::list page_keys(py::handle tokens_object, py::ssize_t page_size, py::handle seed_object,
                   const std::string& impl_name) {
  const BytesView tokens(tokens_object), seed(seed_object);
  const Sha256Impl impl = parse_impl(impl_name);
  HICACHE_CHECK(kLayout, page_size > 0, "page_size=", page_size, ", expected at least 1");
  HICACHE_CHECK(kLayout, tokens.size() % kTokenBytes == 0, "tokens are ", tokens.size(),
                " bytes, not a multiple of 4 (u32 each)");
  HICACHE_CHECK(kLayout, seed.size() == 0 || seed.size() == kSha256Bytes, "seed is ", seed.size(),
                " bytes, expected 0 or 32");
  const std::size_t num_pages = tokens.size() / kTokenBytes / static_cast<std::size_t>(page_size);
  const std::size_t page_bytes =
      num_pages == 0 ? 0 : kTokenBytes * static_cast<std::size_t>(page_size);
  std::vector<std::uint8_t> keys(num_pages * kSha256Bytes);
  {
    py::gil_scoped_release unlocked;
    page_key_chain({tokens.data(), num_pages, page_bytes, seed.data(), seed.size(), keys.data()},
                   impl);
  }
  py::list result(num_pages);
  for (std::size_t page = 0; page < num_pages; ++page) {
    const char* key = reinterpret_cast<const char*>(keys.data()) + page * kSha256Bytes;
    result[page] = py::bytes(key, kSha256Bytes);
  }
  return result;
}

Registrar registrar([](py::module_& m) {
  m.def("has_sha_ni", &has_sha_ni);
  m.def("sha256", &digest_of, py::arg("data"), py::arg("impl") = "auto");
  m.def("page_keys", &page_keys, py::arg("tokens"), py::arg("page_size"), py::arg("seed"),
        py::arg("impl") = "auto");
});

}  // namespace
}  // namespace hicache::bindings::keys
