// Page ids in host memory, checked before anything is written.
#include <algorithm>
#include <string>
#include <vector>

#include "hicache/check.h"
#include "hicache/copy.h"

namespace hicache {
namespace {

// One bit for each destination page. The bitmap stays with its thread and is all zero between two
// checks, so that a check costs as much as its ids and not as much as the pool.
class TakenPages {
 public:
  TakenPages(const PageIds& ids, int64_t num_pages) : ids_(ids) {
    const auto num_words = static_cast<size_t>(num_pages / 64 + 1);
    if (words().size() < num_words) words().resize(num_words);
  }
  TakenPages(const TakenPages&) = delete;
  TakenPages& operator=(const TakenPages&) = delete;

  ~TakenPages() {
    for (int64_t i = 0; i < num_seen_; ++i)
      if (const int64_t page = ids_.at(i); page >= 0) words()[static_cast<size_t>(page / 64)] = 0;
  }

  // Whether position `i` is the first with its page; positions must come in order.
  bool take(int64_t i, int64_t page) {
    num_seen_ = i + 1;
    uint64_t& word = words()[static_cast<size_t>(page / 64)];
    const uint64_t bit = uint64_t{1} << (page % 64);
    const bool is_first = (word & bit) == 0;
    word |= bit;
    return is_first;
  }

 private:
  static std::vector<uint64_t>& words() {
    static thread_local std::vector<uint64_t> words;
    return words;
  }

  const PageIds& ids_;
  int64_t num_seen_ = 0;
};

void check_range(const CopySet& set, const Position& at, const char* side, const PageIds& ids,
                 int64_t num_pages) {
  if (ids.place == IdPlace::kDevice) return;
  const int64_t id = ids.at(at.position);
  HICACHE_CHECK(kPageIndex, id < num_pages, side, " page id out of range: ", position_text(set, at),
                " value=", id, " num_pages=", num_pages);
}

int64_t check_part(const CopySet& set, uint32_t part) {
  const CopyParams& params = set.parts[part];
  const bool on_host =
      params.src_ids.place == IdPlace::kHost && params.dst_ids.place == IdPlace::kHost;
  TakenPages taken(params.dst_ids, params.plan.dst_num_pages);
  int64_t num_copied = 0;
  for (int64_t i = 0; i < params.num_positions; ++i) {
    const Position at{part, i};
    check_range(set, at, "source", params.src_ids, params.plan.src_num_pages);
    check_range(set, at, "destination", params.dst_ids, params.plan.dst_num_pages);
    if (!on_host) continue;  // a twin may be a hole on the other side
    const int64_t dst_page = params.dst_ids.at(i);
    if (params.src_ids.at(i) < 0 || dst_page < 0) continue;
    HICACHE_CHECK(kPageIndex, taken.take(i, dst_page),
                  "destination page id twice: ", position_text(set, at), " value=", dst_page);
    ++num_copied;
  }
  return num_copied * page_bytes(params.plan);
}

}  // namespace

Position position_of(const CopySet& set, int64_t flat_position) {
  uint32_t part = 0;
  while (part + 1 < set.num_parts && flat_position >= set.parts[part].num_positions)
    flat_position -= set.parts[part++].num_positions;
  return {part, flat_position};
}

std::string position_text(const CopySet& set, const Position& at) {
  const std::string part = set.num_parts > 1 ? "part=" + std::to_string(at.part) + " " : "";
  return part + "position=" + std::to_string(at.position);
}

void require_host_ids(const CopySet& set) {
  for (uint32_t part = 0; part < set.num_parts; ++part)
    for (const bool is_source : {true, false}) {
      const PageIds& ids = is_source ? set.parts[part].src_ids : set.parts[part].dst_ids;
      HICACHE_CHECK(
          kLayout, ids.place == IdPlace::kHost, is_source ? "source" : "destination",
          " page ids in GPU memory for an executor that reads them on the CPU: part=", part);
    }
}

int64_t check_page_ids(const CopySet& set) {
  int64_t num_bytes = 0;
  for (uint32_t part = 0; part < set.num_parts; ++part) num_bytes += check_part(set, part);
  return num_bytes;
}

}  // namespace hicache
