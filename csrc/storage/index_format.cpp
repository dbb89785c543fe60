#include "hicache/storage/index_format.h"

#include <cstddef>

#include "hicache/xxh3.h"

namespace hicache::storage {
namespace {

constexpr std::array<char, 8> kMagic = {'H', 'I', 'C', 'S', 'H', 'A', 'R', 'D'};

uint64_t hash64(const void* data, size_t num_bytes, uint64_t seed) {
  const auto* bytes = static_cast<const std::byte*>(data);
  return xxh3_128(bytes, static_cast<int64_t>(num_bytes), seed, Isa::kAuto).low;
}

}  // namespace

IndexHeader make_header(const PageFormat& format, uint64_t segment_bytes, uint64_t shard,
                        uint64_t epoch) {
  IndexHeader header{kMagic,        kFormatVersion, sizeof(Record), format.page_bytes,
                     segment_bytes, shard,          epoch,          format.owner,
                     /*check=*/0};
  header.check = hash64(&header, offsetof(IndexHeader, check), 0);
  return header;
}

bool is_valid(const IndexHeader& header, const PageFormat& format, uint64_t shard) {
  return header.magic == kMagic && header.version == kFormatVersion &&
         header.record_bytes == sizeof(Record) && header.page_bytes == format.page_bytes &&
         header.segment_bytes >= format.slot_bytes() && header.shard == shard &&
         header.owner == format.owner &&
         header.check == hash64(&header, offsetof(IndexHeader, check), 0);
}

uint64_t check_of(const Record& record, const IndexHeader& header, uint64_t position) {
  return hash64(&record, offsetof(Record, check), header.check + position);
}

bool is_valid(const Record& record, const IndexHeader& header, uint64_t position) {
  const bool is_known = record.kind == RecordKind::kPage || record.kind == RecordKind::kTombstone ||
                        record.kind == RecordKind::kCleared;
  const uint64_t first = record.kind == RecordKind::kPage ? 1 : 0;
  return is_known && record.generation >= first && record.generation <= kLastGeneration &&
         record.check == check_of(record, header, position);
}

// Keys are digests, but callers may give what they like: all bytes take part.
uint64_t hash_of(const PageKey& key) {
  uint64_t hash = 0;
  for (const uint64_t word : key.words) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return hash;
}

Checksum checksum_of(const PageKey& key, const std::byte* page, uint64_t page_bytes) {
  Checksum checksum;
  const Hash128 hash = xxh3_128(page, static_cast<int64_t>(page_bytes), key.words[0], Isa::kAuto);
  write_digest(hash, checksum.data());
  return checksum;
}

}  // namespace hicache::storage
