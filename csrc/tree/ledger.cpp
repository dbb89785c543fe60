// The ledger: which page ids are in the tree.
#include <algorithm>
#include <bit>

#include "hicache/tree_table.h"

namespace hicache::radix {
namespace {

constexpr int kWordBits = 6;

}  // namespace

uint64_t* Ledger::chunk(PageId page) {
  const PageId number = page >> kChunkBits;
  if (number != last_) {
    Chunk& bits = chunks_[number];
    if (!bits) bits = std::make_unique<uint64_t[]>(1 << (kChunkBits - kWordBits));
    last_bits_ = bits.get();
    last_ = number;
  }
  return last_bits_ + ((page & ((1 << kChunkBits) - 1)) >> kWordBits);
}

bool Ledger::contains(PageId page) const {
  const auto found = chunks_.find(page >> kChunkBits);
  if (found == chunks_.end()) return false;
  const PageId within = page & ((1 << kChunkBits) - 1);
  return found->second[within >> kWordBits] >> (within & 63) & 1;
}

bool Ledger::add(PageId page) {
  uint64_t& word = *chunk(page);
  const uint64_t bit = uint64_t{1} << (page & 63);
  if (word & bit) return false;
  word |= bit;
  ++size_;
  return true;
}

void Ledger::add(IdsView pages) {
  for (const PageId page : pages) add(page);
}

void Ledger::remove(IdsView pages) {
  for (const PageId page : pages) *chunk(page) &= ~(uint64_t{1} << (page & 63));
  size_ -= static_cast<int64_t>(pages.size());
}

Ids Ledger::sorted() const {
  Ids pages;
  pages.reserve(static_cast<size_t>(size_));
  std::vector<PageId> numbers;
  for (const auto& [number, bits] : chunks_) numbers.push_back(number);
  std::sort(numbers.begin(), numbers.end());
  for (const PageId number : numbers) {
    const uint64_t* bits = chunks_.at(number).get();
    for (PageId word = 0; word < 1 << (kChunkBits - kWordBits); ++word)
      for (uint64_t rest = bits[word]; rest; rest &= rest - 1)
        pages.push_back((number << kChunkBits) + (word << kWordBits) + std::countr_zero(rest));
  }
  return pages;
}

}  // namespace hicache::radix
