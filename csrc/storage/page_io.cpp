#include "hicache/storage/page_io.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "hicache/storage/index_format.h"

namespace hicache::storage {
namespace {

constexpr uint64_t kBounceBytes = 8u << 20;

}  // namespace

PageIo::~PageIo() {
  if (bounce_) engine_.remove_buffer(bounce_->data());
}

AlignedBuffers& PageIo::bounce() {
  std::call_once(is_made_, [&] {
    const uint64_t num_buffers = std::max<uint64_t>(1, kBounceBytes / slot_bytes_);
    bounce_ = std::make_unique<AlignedBuffers>(slot_bytes_, num_buffers);
    engine_.add_buffer(bounce_->data(), bounce_->num_bytes());
  });
  return *bounce_;
}

bool PageIo::is_straight(const std::byte* page) const {
  return page_bytes_ == slot_bytes_ && reinterpret_cast<uintptr_t>(page) % kSlotAlignBytes == 0;
}

void PageIo::move(IoOp op, std::span<PageMove> moves, const IoLimit& limit,
                  const PageMoved& moved) {
  std::vector<uint32_t> straight, other;
  std::vector<std::byte*> pages;
  for (uint32_t i = 0; i < moves.size(); ++i) {
    if (is_straight(moves[i].page)) {
      straight.push_back(i);
      pages.push_back(moves[i].page);
    } else {
      other.push_back(i);
    }
  }
  run(op, moves, straight, pages.data(), limit, moved);
  std::sort(other.begin(), other.end(), [&](uint32_t a, uint32_t b) {
    return std::pair(moves[a].segments, moves[a].slot) <
           std::pair(moves[b].segments, moves[b].slot);
  });
  for (std::span<const uint32_t> rest(other); !rest.empty();) {
    if (limit.is_over()) break;
    const AlignedBuffers::Lease buffers = bounce().take(rest.size());
    const auto some = rest.first(buffers.size());
    pages.clear();
    for (size_t i = 0; i < some.size(); ++i) {
      pages.push_back(buffers[i]);
      if (op == IoOp::kRead) continue;
      std::memcpy(buffers[i], moves[some[i]].page, page_bytes_);
      std::memset(buffers[i] + page_bytes_, 0, slot_bytes_ - page_bytes_);
    }
    run(op, moves, some, pages.data(), limit, moved);
    rest = rest.subspan(some.size());
  }
}

void PageIo::run(IoOp op, std::span<PageMove> moves, std::span<const uint32_t> some,
                 std::byte* const* buffers, const IoLimit& limit, const PageMoved& moved) {
  std::vector<iovec> iovs(some.size());
  std::vector<IoRequest> requests;
  requests.reserve(some.size());
  for (uint32_t i = 0; i < some.size(); ++i) {
    PageMove& move = moves[some[i]];
    Segments::Place place;
    move.error = -move.segments->find(move.slot, &place);
    if (move.error != 0) continue;
    iovs[i] = {buffers[i], slot_bytes_};
    requests.push_back({op, place.file, place.offset, &iovs[i], 1, i});
  }
  engine_.run(requests.data(), requests.size(), limit, [&](uint32_t position, int error) {
    PageMove& move = moves[some[position]];
    move.error = error;
    if (error != 0) return;
    const std::byte* const bytes = buffers[position];
    if (moved(some[position], bytes) && op == IoOp::kRead && bytes != move.page)
      std::memcpy(move.page, bytes, page_bytes_);
  });
}

}  // namespace hicache::storage
