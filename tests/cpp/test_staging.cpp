// Gather into slots and back for the sanitizers: pools and slots that end where their heap block
// ends, against cpu_ref and a hash of the whole object, on several threads.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "copy_cases.h"
#include "copy_expect.h"
#include "hicache/copy.h"
#include "hicache/staging.h"
#include "hicache/xxh3.h"

using namespace hicache;
using namespace hicache::testing;

namespace {

constexpr int kPageUnified = 4;  // of kOrders

bool is_all(const std::byte* data, int64_t num_bytes, int value) {
  return std::all_of(data, data + num_bytes, [&](std::byte b) { return b == std::byte(value); });
}

// Runs of a page that are hashed on their way, several of them and of odd lengths.
Case draw_long_runs() {
  PageLayout like{};
  like.page_size = 16, like.num_layers = draw(1, 3), like.num_kv = draw(1, 2);
  like.num_heads = like.num_groups = 1;
  like.head_bytes = pick<int64_t>({1024, 1031, 2340});
  Case drawn;
  drawn.src = make_layout(0, draw(1, 4), like);
  drawn.dst = make_layout(kPageUnified, draw(1, 4), like);
  for (int64_t page = 0; page < drawn.dst.num_pages; ++page) {
    drawn.dst_ids.push_back(page);
    drawn.src_ids.push_back(draw(0, 5) == 0 ? -1 : draw(0, drawn.src.num_pages - 1));
  }
  return drawn;
}

PageIds as_ids(const std::vector<int64_t>& ids) {
  return {ids.data(), IdWidth::kInt64, IdPlace::kHost};
}

// Pages in a pool, which become objects in slots and pages of another pool.
class Trip {
 public:
  Trip(Case drawn, int case_idx)
      : case_idx_(case_idx),
        c_(std::move(drawn)),
        count_(static_cast<int64_t>(c_.src_ids.size())),
        seeds_(c_.src_ids.size()),
        is_there_(c_.src_ids.size()),
        digests_(count_ * kHash128Bytes),
        slots_(fit_slots()) {
    for (auto& seed : seeds_) seed = rng();
  }

  void run() {
    gather();
    scatter();
  }

 private:
  // Whole packed pages in slots with or without padding. Returns the bytes of all slots.
  int64_t fit_slots() {
    c_.dst = make_layout(kPageUnified, c_.dst.num_pages, c_.dst);
    object_bytes_ = c_.dst.stride_page;
    c_.dst.stride_page += pick<int64_t>({0, 1, 100, 4096});
    return c_.dst.num_pages * c_.dst.stride_page;
  }

  CopySet set_of(const PageLayout& src_layout, const Bytes& src,
                 const std::vector<int64_t>& src_ids, const PageLayout& dst_layout,
                 const std::vector<int64_t>& dst_ids) const {
    const PageWindow whole{0, c_.src.num_layers, 0, c_.src.num_kv,
                           0, c_.src.num_heads,  0, c_.src.page_size};
    CopySet set{};
    set.num_parts = 1;
    set.parts[0].plan = make_plan(src_layout, dst_layout, whole, side_);
    set.parts[0].src = src.data.get();
    set.parts[0].src_ids = as_ids(src_ids);
    set.parts[0].dst_ids = as_ids(dst_ids);
    set.parts[0].num_positions = count_;
    return set;
  }

  const uint64_t* seeds() const { return with_digests_ ? seeds_.data() : nullptr; }
  std::byte* slot(Bytes& slots, int64_t i) const {
    return slots.data.get() + c_.dst_ids[i] * c_.dst.stride_page;
  }

  void gather() {
    Bytes pool(bytes_of(c_.src)), expected(static_cast<int64_t>(slots_.size));
    const std::vector<uint64_t> planes = planes_of(c_.src, pool.data.get());
    for (size_t i = 0; i < pool.size; ++i) pool.data[i] = static_cast<std::byte>(draw(0, 255));
    CopySet set = set_of(c_.src, pool, c_.src_ids, c_.dst, c_.dst_ids);
    check_page_ids(set);
    set.parts[0].src_planes = data_of(planes);
    set.parts[0].dst = expected.data.get();
    copy_cpu_ref(set);
    set.parts[0].dst = slots_.data.get();
    gather_slots(set.parts[0], seeds(), digests_.data.get(), num_threads_);
    for (int64_t i = 0; i < count_; ++i) {
      const std::byte* digest = digests_.data.get() + i * kHash128Bytes;
      is_there_[i] = c_.src_ids[i] >= 0 && c_.dst_ids[i] >= 0;
      if (!is_there_[i]) {
        expect(is_all(digest, kHash128Bytes, 0xee), "a hole has a digest", case_idx_);
        continue;
      }
      std::memset(slot(expected, i) + object_bytes_, 0,
                  static_cast<size_t>(c_.dst.stride_page - object_bytes_));
      std::byte own[kHash128Bytes];
      write_digest(xxh3_128(slot(expected, i), object_bytes_, seeds_[i], Isa::kPortable), own);
      expect(!with_digests_ || std::memcmp(own, digest, sizeof(own)) == 0, "digest", case_idx_);
    }
    expect(std::memcmp(slots_.data.get(), expected.data.get(), expected.size) == 0,
           "slots differ from cpu_ref and zeros", case_idx_);
  }

  // With digests, one bit of the last object is wrong.
  void scatter() {
    std::vector<int64_t> pages(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) pages[i] = draw(0, 5) == 0 ? -1 : i;
    for (int64_t i = 0; i < count_; ++i) is_there_[i] = is_there_[i] && pages[i] >= 0;
    if (with_digests_ && is_there_.back()) {
      slot(slots_, count_ - 1)[draw(0, object_bytes_ - 1)] ^= std::byte{16};
      is_there_.back() = 0;
    }
    for (int64_t i = 0; i < count_; ++i)  // else there is no digest to compare with
      if (c_.src_ids[i] < 0) pages[i] = -1, is_there_[i] = 0;
    PageLayout like = c_.src;
    like.stride_layer = like.stride_kv = 0;  // as a table has them
    const PageLayout layout = make_layout(static_cast<int>(draw(0, kNumLayouts - 1)), count_, like);
    Bytes back(bytes_of(layout)), expected(bytes_of(layout));
    const std::vector<uint64_t> back_planes = planes_of(layout, back.data.get());
    const std::vector<uint64_t> expected_planes = planes_of(layout, expected.data.get());
    CopySet set = set_of(c_.dst, slots_, c_.dst_ids, layout, pages);
    set.parts[0].dst = back.data.get();
    set.parts[0].dst_planes = data_of(back_planes);
    std::vector<uint8_t> is_written(pages.size());
    scatter_slots(set.parts[0], seeds(), digests_.data.get(), is_written.data(), num_threads_);
    expect(is_written == is_there_, "told wrong which pages are there", case_idx_);
    for (int64_t i = 0; i < count_; ++i)
      if (!is_there_[i]) pages[i] = -1;
    set.parts[0].dst = expected.data.get();
    set.parts[0].dst_planes = data_of(expected_planes);
    copy_cpu_ref(set);
    expect(std::memcmp(back.data.get(), expected.data.get(), back.size) == 0,
           "pages differ from cpu_ref", case_idx_);
  }

  const int case_idx_;
  Case c_;
  const int64_t count_;
  int64_t object_bytes_ = 0;
  const bool with_digests_ = draw(0, 3) > 0;
  const int num_threads_ = static_cast<int>(draw(1, 3));
  const Ascending side_ = pick({Ascending::kSource, Ascending::kDestination});
  std::vector<uint64_t> seeds_;
  std::vector<uint8_t> is_there_;
  Bytes digests_, slots_;
};

}  // namespace

int main() {
  for (int i = 0; i < 20 * kNumLayouts; ++i) {
    rng.seed(static_cast<unsigned>(i));
    Trip(i % 4 == 0 ? draw_long_runs() : draw_case(i * kNumLayouts), i).run();
  }
  std::printf("test_staging: %d failed\n", num_failed);
  return num_failed == 0 ? 0 : 1;
}
