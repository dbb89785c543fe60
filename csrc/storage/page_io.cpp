#include "hicache/storage/page_io.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "hicache/storage/index_format.h"

namespace hicache::storage {
namespace {

constexpr uint64_t kBounceBytes = 8u << 20;

struct Bounced {
  const PageIo::Part* part;
  std::vector<uint32_t> indices;
  size_t num_moved = 0;
};

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

// What goes to the engine at a time.
class PageIo::Submission {
 public:
  explicit Submission(IoOp op) : op_(op) {}

  void add(const Part& part, uint32_t index, std::byte* buffer) {
    PageMove& move = part.moves[index];
    Segments::Place place;
    move.error = -move.segments->find(move.slot, &place);
    if (move.error == 0) items_.push_back({&part, index, place, {buffer, part.io->slot_bytes_}});
  }

  // Written pages are copied into their buffers first.
  void add(const Part& part, std::span<const uint32_t> some, const AlignedBuffers::Lease& buffers) {
    const PageIo& io = *part.io;
    for (size_t i = 0; i < some.size(); ++i) {
      if (op_ == IoOp::kWrite) {
        std::memcpy(buffers[i], part.moves[some[i]].page, io.page_bytes_);
        std::memset(buffers[i] + io.page_bytes_, 0, io.slot_bytes_ - io.page_bytes_);
      }
      add(part, some[i], buffers[i]);
    }
  }

  void run(const IoLimit& limit) {
    if (items_.empty()) return;
    std::vector<IoRequest> requests;
    requests.reserve(items_.size());
    for (uint32_t i = 0; i < items_.size(); ++i)
      requests.push_back({op_, items_[i].place.file, items_[i].place.offset, &items_[i].iov, 1, i});
    IoEngine& engine = items_[0].part->io->engine_;
    engine.run(requests.data(), requests.size(), limit,
               [this](uint32_t position, int error) { end(items_[position], error); });
    items_.clear();
  }

 private:
  struct Item {
    const Part* part;
    uint32_t index;
    Segments::Place place;
    iovec iov;
  };

  void end(const Item& item, int error) const {
    PageMove& move = item.part->moves[item.index];
    move.error = error;
    if (error != 0) return;
    const auto* const bytes = static_cast<const std::byte*>(item.iov.iov_base);
    if (item.part->moved(item.index, bytes) && op_ == IoOp::kRead && bytes != move.page)
      std::memcpy(move.page, bytes, item.part->io->page_bytes_);
  }

  const IoOp op_;
  std::vector<Item> items_;
};

void PageIo::move(IoOp op, std::span<const Part> parts, const IoLimit& limit) {
  // Of each arena what needs a buffer of it. Every thread takes its leases in this order, and has
  // one of an arena at a time: none waits for one that waits for it.
  std::map<PageIo*, std::vector<Bounced>> bounced;
  Submission submission(op);
  for (const Part& part : parts) {
    std::vector<uint32_t> others;
    for (uint32_t i = 0; i < part.moves.size(); ++i) {
      if (part.io->is_straight(part.moves[i].page))
        submission.add(part, i, part.moves[i].page);
      else
        others.push_back(i);
    }
    std::sort(others.begin(), others.end(), [&](uint32_t a, uint32_t b) {
      return std::pair(part.moves[a].segments, part.moves[a].slot) <
             std::pair(part.moves[b].segments, part.moves[b].slot);
    });
    if (!others.empty()) bounced[part.io].push_back({&part, std::move(others)});
  }
  do {
    std::vector<AlignedBuffers::Lease> leases;
    for (auto& [io, waiting] : bounced) {
      if (limit.is_over()) break;
      Bounced& first = waiting.back();
      const std::span<const uint32_t> rest = std::span(first.indices).subspan(first.num_moved);
      leases.push_back(io->bounce().take(rest.size()));
      const size_t num_taken = leases.back().size();
      submission.add(*first.part, rest.first(num_taken), leases.back());
      first.num_moved += num_taken;
      if (num_taken == rest.size()) waiting.pop_back();
    }
    submission.run(limit);
    std::erase_if(bounced, [](const auto& item) { return item.second.empty(); });
  } while (!bounced.empty() && !limit.is_over());
}

}  // namespace hicache::storage
