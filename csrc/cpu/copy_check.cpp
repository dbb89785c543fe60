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
  TakenPages(const PageIds& ids, int64_t num_pages) : ids_(ids), words_(bitmap(num_pages)) {}
  TakenPages(const TakenPages&) = delete;
  TakenPages& operator=(const TakenPages&) = delete;

  ~TakenPages() {
    for (int64_t i = 0; i < num_seen_; ++i)
      if (const int64_t page = ids_.at(i); page >= 0) words_[page / 64] = 0;
  }

  // Whether position `i` is the first with its page; positions must come in order.
  bool take(int64_t i, int64_t page) {
    num_seen_ = i + 1;
    const uint64_t bit = uint64_t{1} << (page % 64), before = words_[page / 64];
    words_[page / 64] = before | bit;
    return (before & bit) == 0;
  }

 private:
  static uint64_t* bitmap(int64_t num_pages) {
    static thread_local std::vector<uint64_t> words;
    const auto num_words = static_cast<size_t>(num_pages / 64 + 1);
    if (words.size() < num_words) words.resize(num_words);
    return words.data();
  }

  const PageIds ids_;
  uint64_t* const words_;
  int64_t num_seen_ = 0;
};

[[noreturn]] void raise_out_of_range(const CopySet& set, const Position& at, const char* side,
                                     int64_t id, int64_t num_pages) {
  raise(ErrorKind::kPageIndex, side, " page id out of range: ", position_text(set, at),
        " value=", id, " num_pages=", num_pages);
}

// The id at a position, in range; a hole where only the device knows.
int64_t checked(const CopySet& set, const Position& at, const char* side, const PageIds& ids,
                int64_t num_pages) {
  if (ids.place == IdPlace::kDevice) return -1;
  const int64_t id = ids.at(at.position);
  if (id >= num_pages) [[unlikely]]
    raise_out_of_range(set, at, side, id, num_pages);
  return id;
}

int64_t check_part(const CopySet& set, uint32_t part) {
  const CopyParams& params = set.parts[part];
  const int64_t src_pages = params.plan.src_num_pages, dst_pages = params.plan.dst_num_pages;
  const PageIds src_ids = params.src_ids, dst_ids = params.dst_ids;
  TakenPages taken(dst_ids, dst_pages);
  int64_t num_copied = 0;
  for (int64_t i = 0; i < params.num_positions; ++i) {
    const Position at{part, i};
    const int64_t src_page = checked(set, at, "source", src_ids, src_pages);
    const int64_t dst_page = checked(set, at, "destination", dst_ids, dst_pages);
    if (src_page < 0 || dst_page < 0) continue;  // a twin may be a hole on the other side
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
