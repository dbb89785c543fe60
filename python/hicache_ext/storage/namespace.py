"""StoreNamespace: everything that changes the bytes of a page, as one digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StoreNamespace:
    """Two stores share pages exactly if these are equal; anything else is a miss, never garbage.

    `layout` is LayoutSpec.digest_fields() of the page object; `shard` says which part of the heads
    a page holds ("0/2": rank 0 of 2) or "replicated" where every rank's bytes are the same.
    """

    model: str
    revision: str
    dtype: str
    layout: Mapping[str, int | str] = field(hash=False)
    page_size: int
    shard: str

    def as_dict(self) -> dict[str, object]:
        """Plain JSON types, for a manifest."""
        return {
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "layout": dict(sorted(self.layout.items())),
            "page_size": self.page_size,
            "shard": self.shard,
        }

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form, 64 hex digits; the same in every process."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(b"hicache_ext-store-v1" + text.encode()).hexdigest()
