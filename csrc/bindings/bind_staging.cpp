// Slots for storage, for hicache_ext.staging.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "copy_objects.h"
#include "hicache/check.h"
#include "hicache/staging.h"
#include "hicache/thread_pool.h"
#include "hicache/xxh3.h"
#include "registry.h"

namespace py = pybind11;

namespace hicache::bindings::staging {
namespace {

using Seeds = py::array_t<uint64_t, py::array::c_style>;

const CopyParams& only_part(const CopySetObject& object) {
  const CopySet& set = object.on_host();
  HICACHE_CHECK(kLayout, set.num_parts == 1, "slots of num_parts=", set.num_parts);
  require_host_ids(set);
  return set.parts[0];
}

// [num_positions], or nullptr.
const uint64_t* seeds_of(const CopyParams& part, const std::optional<Seeds>& seeds) {
  if (!seeds.has_value()) return nullptr;
  HICACHE_CHECK(kLayout, seeds->size() == part.num_positions, seeds->size(), " seeds for ",
                part.num_positions, " page ids");
  return seeds->data();
}

int threads_of(int num_threads) { return num_threads > 0 ? num_threads : num_usable_cpus(); }

py::list gather(const CopySetObject& object, const std::optional<Seeds>& seeds, int num_threads) {
  const CopyParams& part = only_part(object);
  const uint64_t* const seed = seeds_of(part, seeds);
  std::vector<std::byte> digests(static_cast<size_t>(seed ? part.num_positions : 0) *
                                 kHash128Bytes);
  {
    py::gil_scoped_release unlocked;
    check_page_ids(object.on_host());
    gather_slots(part, seed, digests.data(), threads_of(num_threads));
  }
  py::list out;
  for (int64_t i = 0; i < part.num_positions; ++i) {
    if (seed == nullptr || part.src_ids.at(i) < 0)
      out.append(py::none());
    else
      out.append(
          py::bytes(reinterpret_cast<const char*>(&digests[i * kHash128Bytes]), kHash128Bytes));
  }
  return out;
}

py::list scatter(const CopySetObject& object, const std::optional<Seeds>& seeds,
                 const std::string& digests, int num_threads) {
  const CopyParams& part = only_part(object);
  const uint64_t* const seed = seeds_of(part, seeds);
  HICACHE_CHECK(
      kLayout,
      seed == nullptr || static_cast<int64_t>(digests.size()) == part.num_positions * kHash128Bytes,
      digests.size(), " bytes of checksums for ", part.num_positions, " page ids");
  std::vector<uint8_t> is_written(static_cast<size_t>(part.num_positions));
  {
    py::gil_scoped_release unlocked;
    check_page_ids(object.on_host());
    scatter_slots(part, seed, reinterpret_cast<const std::byte*>(digests.data()), is_written.data(),
                  threads_of(num_threads));
  }
  py::list out;
  for (const uint8_t written : is_written) out.append(py::bool_(written != 0));
  return out;
}

Registrar registrar([](py::module_& m) {
  m.def("gather_slots", &gather, py::arg("set"), py::kw_only(), py::arg("seeds"),
        py::arg("num_threads"));
  m.def("scatter_slots", &scatter, py::arg("set"), py::kw_only(), py::arg("seeds"),
        py::arg("digests"), py::arg("num_threads"));
});

}  // namespace
}  // namespace hicache::bindings::staging
