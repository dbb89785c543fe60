"""Namespaces: the same tokens in two of them never meet, in the tree or in a store.

A namespace is bytes, part of the tree's roots and of the first page key. `Namespace` makes them of
what serving engines keep apart, so that no two combinations give the same bytes:

    b"hn1" then, for each part that is given, in this order:  tag, length (u32-LE), value
    tags: i  LoRA by number (u64-LE)   n  LoRA by name   t  tenant   s  salt   (UTF-8)
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

from hicache_ext.errors import TreeError

_MAGIC = b"hn1"
_LENGTH_BYTES = 4
_NUMBER_BYTES = 8


@dataclass(frozen=True)
class Namespace:
    """What separates a request's cached prefix from others; None where it makes no difference.

    `lora`: name or number of the adapter. A name and a number are two adapters, also "7" and 7.
    TreeError for an empty or wrong part.
    """

    lora: str | int | None = None
    tenant: str | None = None
    salt: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.lora, numbers.Integral) and not isinstance(self.lora, bool):
            if not 0 <= self.lora < 1 << 63:
                raise TreeError(f"lora={self.lora} is no number of an adapter: 0 to 2**63 - 1")
            object.__setattr__(self, "lora", int(self.lora))
            texts = {"tenant": self.tenant, "salt": self.salt}
        else:
            texts = {"lora": self.lora, "tenant": self.tenant, "salt": self.salt}
        for name, text in texts.items():
            if text is not None and (not isinstance(text, str) or not text):
                raise TreeError(f"{name}={text!r} is no name; None means none")

    @property
    def key(self) -> bytes:
        """What `HiCache.match` and the tree take; b"" if no part is given."""
        parts = []
        if isinstance(self.lora, int):
            parts.append((b"i", self.lora.to_bytes(_NUMBER_BYTES, "little")))
        elif self.lora is not None:
            parts.append((b"n", self.lora.encode()))
        if self.tenant is not None:
            parts.append((b"t", self.tenant.encode()))
        if self.salt is not None:
            parts.append((b"s", self.salt.encode()))
        coded = [tag + len(v).to_bytes(_LENGTH_BYTES, "little") + v for tag, v in parts]
        return _MAGIC + b"".join(coded) if parts else b""

    @classmethod
    def of(cls, key: bytes) -> Namespace | None:
        """The parts of a `key`; None for bytes that were not made here."""
        try:
            made = cls(**_parts(key))
        except (ValueError, TreeError):
            return None
        return made if made.key == key else None


def _parts(key: bytes) -> dict[str, Any]:
    """ValueError or TreeError for most keys that are none; the caller compares."""
    names = {b"n": "lora", b"t": "tenant", b"s": "salt"}
    parts: dict[str, Any] = {}
    rest = key.removeprefix(_MAGIC)
    while rest:
        tag, begin = rest[:1], 1 + _LENGTH_BYTES
        end = begin + int.from_bytes(rest[1:begin], "little")
        value, rest = rest[begin:end], rest[end:]
        if tag == b"i":
            parts["lora"] = int.from_bytes(value, "little")
        elif tag in names:
            parts[names[tag]] = value.decode()
        else:
            raise ValueError(tag)
    return parts
