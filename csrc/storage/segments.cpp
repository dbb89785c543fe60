#include "hicache/storage/segments.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace hicache::storage {
namespace {

// Room is taken ahead, as much as is there already, within these: few calls, and files that lie in
// one piece, but a store of a few pages stays small.
constexpr uint64_t kMinAheadBytes = 1u << 20;
constexpr uint64_t kMaxAheadBytes = 64u << 20;

struct Name {
  explicit Name(uint32_t segment) { std::snprintf(text, sizeof(text), "%08x.pages", segment); }
  char text[16];
};

}  // namespace

Segments::Segments(Files& files, IoEngine& engine, File dir, Access access, uint64_t slot_bytes,
                   uint64_t segment_bytes)
    : files_(files),
      engine_(engine),
      dir_(std::move(dir)),
      access_(access),
      slot_bytes_(slot_bytes),
      slots_per_segment_(
          static_cast<uint32_t>(std::min<uint64_t>(segment_bytes / slot_bytes, UINT32_MAX / 2))) {}

Segments::~Segments() {
  for (const auto& [segment, file] : open_) engine_.remove_file(file.get());
}

int Segments::open_segment(uint32_t segment, int flags, File* file) {
  const Name name(segment);
  flags |= access_ == Access::kWrite ? O_RDWR : O_RDONLY;
  int fd = files_.open(dir_.get(), name.text, flags | O_DIRECT, 0600);
  if (fd == -EINVAL) fd = files_.open(dir_.get(), name.text, flags, 0600);  // no O_DIRECT
  if (fd < 0) return fd;
  *file = File(files_, fd);
  struct stat found;
  if (const int error = Files::stat(fd, &found); error < 0) return error;
  return S_ISREG(found.st_mode) ? 0 : -EISDIR;
}

int Segments::find(uint32_t slot, Place* place) {
  const uint32_t segment = slot / slots_per_segment_;
  const std::lock_guard lock(mutex_);
  auto found = open_.find(segment);
  if (found == open_.end()) {
    File file;
    if (const int error = open_segment(segment, 0, &file); error < 0) return error;
    engine_.add_file(file.get());
    found = open_.emplace(segment, std::move(file)).first;
  }
  *place = {found->second.get(), slot % slots_per_segment_ * slot_bytes_};
  return 0;
}

uint64_t Segments::bytes_of(uint32_t segment, bool* is_foreign) {
  struct stat found;
  const int error = Files::stat_in(dir_.get(), Name(segment).text, &found);
  const bool is_file = error == 0 && S_ISREG(found.st_mode);
  if (is_foreign != nullptr) *is_foreign = error == 0 && !is_file;
  return is_file ? static_cast<uint64_t>(found.st_size) : 0;
}

uint32_t Segments::num_slots(bool* is_foreign) {
  for (uint32_t segment = 0;; ++segment) {
    const uint64_t num_there = bytes_of(segment, is_foreign) / slot_bytes_;
    if (num_there < slots_per_segment_)
      return segment * slots_per_segment_ + static_cast<uint32_t>(num_there);
  }
}

int Segments::extend(uint32_t from, uint32_t to, bool is_durable) {
  const uint32_t segment = from / slots_per_segment_;
  const bool is_new = bytes_of(segment) == 0;
  File file;
  if (const int error = open_segment(segment, is_new ? O_CREAT : 0, &file); error < 0) return error;
  const uint64_t begin = from % slots_per_segment_ * slot_bytes_;
  int error = files_.allocate(file.get(), begin, (to - from) * slot_bytes_);
  // Now, not with the first pages: those of the next file may be synced before any of this one.
  if (error == 0 && is_durable) error = files_.sync_data(file.get());
  if (error == 0 && is_durable && is_new) error = files_.sync(dir_.get());
  return error;
}

uint32_t Segments::grow(uint32_t wanted, uint32_t most, bool is_durable, int* error) {
  uint32_t num_there = num_slots();
  const uint64_t ahead =
      std::clamp(num_there * slot_bytes_, kMinAheadBytes, kMaxAheadBytes) / slot_bytes_;
  for (const uint64_t more : {std::max<uint64_t>(wanted, ahead), uint64_t{wanted}}) {
    const auto target = static_cast<uint32_t>(std::min<uint64_t>(most, num_there + more));
    *error = 0;
    while (num_there < target && *error == 0) {
      const uint32_t end_of_file = (num_there / slots_per_segment_ + 1) * slots_per_segment_;
      const uint32_t to = std::min(target, end_of_file);
      *error = extend(num_there, to, is_durable);
      if (*error == 0) num_there = to;
    }
    if (*error != -ENOSPC) break;  // else there may be room for what is needed
  }
  return num_there;
}

int Segments::cut_to(uint32_t num_slots) {
  const uint32_t first = num_slots / slots_per_segment_;
  for (uint32_t segment = first; bytes_of(segment) > 0; ++segment) {
    File file;
    if (const int error = open_segment(segment, 0, &file); error < 0) return error;
    const uint64_t kept = segment == first ? num_slots % slots_per_segment_ * slot_bytes_ : 0;
    if (const int error = files_.truncate(file.get(), kept); error < 0) return error;
  }
  return 0;
}

}  // namespace hicache::storage
