// The index of a shard as it lies on the disk: [header | record | record ...], only appended to.
//
// Whoever finds a kPage record finds the page: it follows the page's bytes. A slot is reused only
// behind a kTombstone of what it held. Every record carries a check that is seeded by the header
// and its own position, so that it is worth nothing in another index or another place.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace hicache::storage {

static_assert(std::endian::native == std::endian::little, "the format is little endian");

inline constexpr uint32_t kFormatVersion = 3;
inline constexpr uint64_t kSlotAlignBytes = 4096;

struct PageKey {
  uint64_t words[4];
  friend bool operator==(const PageKey&, const PageKey&) = default;
};

using Checksum = std::array<std::byte, 16>;  // XXH3-128 of the page, seeded by its key
using Owner = std::array<std::byte, 32>;     // digest of the pool and its namespace

enum class RecordKind : uint32_t {
  kPage = 1,       // `key` lies in `slot` of this shard
  kTombstone = 2,  // what `shard` held in `slot` by `generation` is dead
  kCleared = 3     // all that `shard` holds of `generation` and before is dead
};

struct Record {
  RecordKind kind;
  uint32_t slot;
  uint64_t shard;
  uint64_t generation;  // of the page; grows with every page of a shard; from 1 on
  PageKey key;
  Checksum checksum;
  uint64_t check;
};
static_assert(sizeof(Record) == 80);
// They begin at the time in nanoseconds: none gets there, and the next one is never 0.
inline constexpr uint64_t kLastGeneration = uint64_t{1} << 63;

struct IndexHeader {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t record_bytes;
  uint64_t page_bytes;
  uint64_t segment_bytes;
  uint64_t shard;
  uint64_t epoch;  // counts the rewrites of this index
  Owner owner;
  uint64_t check;
};
static_assert(sizeof(IndexHeader) == 88);

// How the pages of one pool and namespace lie on the disk.
struct PageFormat {
  uint64_t page_bytes;
  Owner owner;
  uint64_t slot_bytes() const {
    return (page_bytes + kSlotAlignBytes - 1) / kSlotAlignBytes * kSlotAlignBytes;
  }
};

IndexHeader make_header(const PageFormat& format, uint64_t segment_bytes, uint64_t shard,
                        uint64_t epoch);

// Whether it is the header of this shard, with pages of this format and room for one in a segment.
bool is_valid(const IndexHeader& header, const PageFormat& format, uint64_t shard);

uint64_t check_of(const Record& record, const IndexHeader& header, uint64_t position);

// Whether the record is what was written at this position of the index with this header.
bool is_valid(const Record& record, const IndexHeader& header, uint64_t position);

uint64_t hash_of(const PageKey& key);

Checksum checksum_of(const PageKey& key, const std::byte* page, uint64_t page_bytes);

}  // namespace hicache::storage
