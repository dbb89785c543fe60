// Pages on their way between a pool of any layout and storage: each lies packed in a slot, with
// padding behind it, so that O_DIRECT can move whole slots.
#pragma once

#include "hicache/copy.h"

namespace hicache {

// One part of whole pages whose destination pages are the slots, in host memory: copies the pages
// and zeroes the padding of their slots. With seeds [num_positions], writes the xxh3_128 of each
// object, kHash128Bytes at digests[position * kHash128Bytes]. A hole leaves its slot and its digest
// alone. The ids must have passed check_page_ids(). Throws Error(kLayout) before it writes where
// the slots are not packed.
void gather_slots(const CopyParams& part, const uint64_t* seeds, std::byte* digests,
                  int num_threads);

// The way back: the source pages are the slots. With seeds, each object is hashed before its page
// is written; the page of one with another digest stays as it is. is_written [num_positions]: 1 for
// each page that is now there, 0 for a hole and for a page that stayed.
void scatter_slots(const CopyParams& part, const uint64_t* seeds, const std::byte* digests,
                   uint8_t* is_written, int num_threads);

}  // namespace hicache
