// hicache_ext._C.TreeCore: the native radix tree. It checks what it is given; results are tuples
// that tree/native.py names, errors are those of the Python tree.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "hicache/sha256.h"
#include "hicache/xxh3.h"
#include "registry.h"
#include "tree_objects.h"

namespace hicache::bindings::tree {
namespace {

using radix::TreeState;

// As keys.token_hash(): 62 bits of the digest.
int64_t native_token_hash(const void* data, int64_t num_bytes) {
  const Hash128 hash = xxh3_128(static_cast<const std::byte*>(data), num_bytes, 0, Isa::kAuto);
  return static_cast<int64_t>(__builtin_bswap64(hash.high) >> 2);
}

radix::TokenHash token_hash_of(const py::object& callable) {
  if (callable.is_none()) return native_token_hash;
  return [callable](const void* data, int64_t num_bytes) {
    return callable(py::bytes(static_cast<const char*>(data), num_bytes)).cast<int64_t>();
  };
}

py::bytes seed_of(const std::string& name_space, std::span<const uint8_t> previous) {
  if (!previous.empty())
    return py::bytes(reinterpret_cast<const char*>(previous.data()), previous.size());
  return py::module_::import("hicache_ext.keys").attr("namespace_seed")(py::bytes(name_space));
}

radix::PageKeys page_keys_of(const py::object& callable, int64_t page_words) {
  return [callable, page_words](radix::Tokens tokens, const std::string& name_space,
                                std::span<const uint8_t> previous, uint8_t* keys) {
    const py::bytes seed = seed_of(name_space, previous);
    const std::string_view seed_bytes = seed;
    const size_t num_pages = tokens.size() / static_cast<size_t>(page_words);
    if (callable.is_none()) {
      const auto* data = reinterpret_cast<const uint8_t*>(tokens.data());
      const auto* first = reinterpret_cast<const uint8_t*>(seed_bytes.data());
      const py::gil_scoped_release others_may_run;  // no other thread calls the tree meanwhile
      return page_key_chain(
          {data, num_pages, tokens.size_bytes() / num_pages, first, seed_bytes.size(), keys},
          Sha256Impl::kAuto);
    }
    const py::bytes data(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
    for (const auto& key : callable(data, page_words, seed)) {
      const std::string_view bytes = py::reinterpret_borrow<py::bytes>(key);
      keys = std::copy(bytes.begin(), bytes.end(), keys);
    }
  };
}

std::unique_ptr<TreeState> make_tree(int64_t page_size, int64_t unit_words,
                                     std::vector<std::shared_ptr<radix::Component>> components,
                                     radix::Strategy strategy, radix::HostPaths host_paths,
                                     const py::object& token_hash, const py::object& page_keys) {
  return std::make_unique<TreeState>(TreeState::Options{
      page_size, unit_words, std::move(components), strategy, host_paths, token_hash_of(token_hash),
      page_keys_of(page_keys, page_size * unit_words)});
}

// -> (root if it is new, the call's values for the log, the fields of MatchResult)
py::tuple match_prefix(TreeState& state, py::handle tokens, py::handle name_space) {
  state.guard();
  const TokensArg key(state, tokens);
  const auto found = radix::match_prefix(state, key.view(), namespace_arg(name_space));
  const int64_t size = state.page_size;
  const auto asked = py::make_tuple(found.num_pages * size, found.key_hash, found.root->id);
  return py::make_tuple(
      found.is_new_root, asked,
      py::make_tuple(found.best->id, found.best->end * size, found.device->id,
                     found.device->end * size, found.host->id, found.host->end * size,
                     found.deepest->id, found.deepest->end * size));
}

// The rows of ids by component, from {name: ids}; one that is not named hands nothing over.
class RowsArg {
 public:
  RowsArg(const TreeState& state, py::handle pages, int64_t num_pages) {
    for (const auto& name : py::reinterpret_borrow<py::object>(pages)) component_arg(state, name);
    for (const auto& component : state.components) {
      const py::str name(component->name);
      if (PyMapping_HasKey(pages.ptr(), name.ptr())) {
        const py::object given = pages[name];
        const int64_t lowest = component->is_base ? 0 : radix::kHole;
        ids_.push_back(ids_arg(given, {"insert, " + component->name, num_pages, lowest}));
      } else {
        if (component->is_base)
          raise_tree_error("insert needs pages of " + std::string(py::repr(name)) + "; got " +
                           std::string(py::repr(
                               py::module_::import("builtins")
                                   .attr("sorted")(py::reinterpret_borrow<py::object>(pages)))));
        ids_.emplace_back(num_pages, radix::kHole);
      }
    }
  }
  radix::Rows rows() const { return {ids_.begin(), ids_.end()}; }

 private:
  radix::IdsByComponent ids_;
};

int64_t priority_arg(py::handle priority) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  const int64_t value = PyIndex_Check(priority.ptr()) ? clamped(priority) : kLimit;
  HICACHE_CHECK(kTree, -kLimit <= value && value < kLimit, "priority ",
                std::string(py::repr(priority)), " is no 32-bit integer");
  return value;
}

// -> (root if it is new, values for the log, tokens present, released)
py::tuple insert(TreeState& state, py::handle tokens, py::handle pages, py::handle name_space,
                 py::handle priority_object) {
  state.guard();
  const TokensArg key(state, tokens);
  const int64_t num_pages = state.num_pages(key.view());
  const RowsArg ids(state, pages, num_pages);
  const int64_t priority = priority_arg(priority_object);
  const auto done =
      radix::insert(state, key.view(), ids.rows(), namespace_arg(name_space), priority);
  std::vector<int64_t> num_released;
  for (const radix::Ids& released : done.released)
    num_released.push_back(static_cast<int64_t>(released.size()));
  const auto values =
      py::make_tuple(done.num_pages * state.page_size, done.key_hash, to_tuple(done.num_given),
                     priority, done.node->id, done.num_present_pages, to_tuple(num_released));
  return py::make_tuple(done.is_new_root ? py::object(py::int_(done.root->id)) : py::none(), values,
                        done.num_present_pages * state.page_size, to_dict(state, done.released));
}

// -> (anchor, tokens, hash, node or None, pages present, released)
py::tuple insert_host(TreeState& state, py::handle anchor, py::handle tokens, py::handle pages,
                      py::handle name_space) {
  state.guard();
  const radix::Node* above = state.get(node_arg(state, anchor));
  const radix::NodeId node = above->id;
  const py::bytes own(*above->name_space);
  HICACHE_CHECK(kTree, name_space.is_none() || name_space.equal(own), "anchor ", node,
                " is in namespace ", std::string(py::repr(own)), ", the span in ",
                std::string(py::repr(name_space)));
  const TokensArg key(state, tokens);
  const int64_t num_pages = state.num_pages(key.view());
  const radix::Ids ids =
      ids_arg(pages, {"insert_host, " + state.components[0]->name, num_pages, 0});
  const auto done = radix::insert_host(state, node, key.view(), ids);
  const py::object where = done.node ? py::object(py::int_(done.node->id)) : py::none();
  return py::make_tuple(node, done.num_pages * state.page_size, done.key_hash, where,
                        done.num_present_pages, to_list(done.released));
}

// -> (id, node, pages by component)
py::tuple lock(TreeState& state, py::handle node_id, int tier, py::handle num_pages) {
  state.guard();
  radix::Node* node = state.get(node_arg(state, node_id));
  std::vector<int64_t> reach = state.reach(node);
  if (!num_pages.is_none()) {
    const auto refuse = [&](const std::string& count, py::handle name) {
      raise_tree_error("lock of " + count + " " + std::string(py::str(name)) +
                       " pages back from node " + std::to_string(node->id) + ", " +
                       std::to_string(node->end) + " pages deep");
    };
    const std::vector<int64_t> counts = counts_arg(state, num_pages, node->end, refuse);
    reach = radix::whole_nodes(state, node, counts);
  }
  const radix::Receipt& receipt = radix::acquire(state, node, tier, std::move(reach));
  return py::make_tuple(receipt.id, receipt.node, to_tuple(receipt.num_pages));
}

// -> (component, pages released)
py::tuple release_window(TreeState& state, int64_t receipt, py::handle component) {
  const int idx = component_arg(state, component);
  HICACHE_CHECK(kTree, !state.components[idx]->is_base, std::string(py::repr(component)),
                " is the base: it is locked as long as the receipt is open");
  return py::make_tuple(idx, radix::release_window(state, receipt, idx));
}

py::tuple freed_pages(const TreeState& state, const radix::EvictResult& result) {
  return py::make_tuple(to_dict(state, result.freed[radix::kDevice]),
                        to_dict(state, result.freed[radix::kHost]), state.nodes.size());
}

py::tuple evict(TreeState& state, int tier, py::handle num_pages) {
  state.guard();
  const auto refuse = [](const std::string& count, py::handle name) {
    raise_tree_error("evict " + count + " pages of " + std::string(py::repr(name)));
  };
  return freed_pages(state,
                     radix::evict(state, tier, counts_arg(state, num_pages, INT64_MAX, refuse)));
}

py::tuple drop_duplicates(TreeState& state, py::handle num_pages) {
  state.guard();
  const auto refuse = [](const std::string& count, py::handle name) {
    raise_tree_error("drop " + count + " host duplicates of " + std::string(py::repr(name)));
  };
  return freed_pages(
      state, radix::drop_duplicates(state, counts_arg(state, num_pages, INT64_MAX, refuse)));
}

py::list coldest(TreeState& state, int tier, py::handle component, py::handle num_pages) {
  state.guard();
  const int idx = component_arg(state, component);
  const int64_t count = clamped(num_pages);
  HICACHE_CHECK(kTree, count >= 0, "the coldest ", count, " pages of ",
                std::string(py::repr(component)));
  py::list ids;
  for (const radix::Node* node : state.queue(idx, tier).coldest(count)) ids.append(node->id);
  return ids;
}

py::tuple clear(TreeState& state, int tier) {
  state.guard();
  return freed_pages(state, radix::clear(state, tier));
}

Registrar registrar([](py::module_& m) {
  py::class_<radix::Component, std::shared_ptr<radix::Component>>(m, "TreeComponent");
  m.def("tree_full", &radix::make_full);
  m.def("tree_swa", &radix::make_swa, py::arg("window_tokens"));
  m.def("tree_mamba", &radix::make_mamba);
  py::enum_<radix::Strategy>(m, "TreeStrategy")
      .value("LRU", radix::Strategy::kLru)
      .value("LFU", radix::Strategy::kLfu)
      .value("SLRU", radix::Strategy::kSlru)
      .value("FIFO", radix::Strategy::kFifo)
      .value("PRIORITY", radix::Strategy::kPriority);
  py::enum_<radix::HostPaths>(m, "TreeHostPaths")
      .value("WHOLE", radix::HostPaths::kWhole)
      .value("GAPS", radix::HostPaths::kGaps);
  TreeClass core(m, "TreeCore");
  core.def(py::init(&make_tree), py::arg("page_size"), py::arg("unit_words"), py::arg("components"),
           py::arg("strategy"), py::arg("host_paths"), py::arg("token_hash"), py::arg("page_keys"))
      .def("guard", &TreeState::guard)
      .def("match_prefix", &match_prefix)
      .def("insert", &insert)
      .def("insert_host", &insert_host)
      .def("lock", &lock)
      .def("unlock",
           [](TreeState& state, int64_t receipt) {
             state.guard();
             radix::release(state, receipt);
           })
      .def("release_window", &release_window)
      .def("evict", &evict)
      .def("coldest", &coldest)
      .def("drop_duplicates", &drop_duplicates)
      .def("clear", &clear);
  tree_copies::add(m, core);
  tree_export::add(core);
  tree_pages::add(core);
});

}  // namespace
}  // namespace hicache::bindings::tree
