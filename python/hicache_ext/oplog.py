"""The last operations of one rank, and a running hash of all of them that ranks compare.

Always on, so a record is a template and a few ints; text is made when somebody asks for it. A
record may hold what is the same on every rank: counts, ids of nodes and ops, hashes. Page ids are
each rank's own, and tokens are user data: of both, only a number and a hash are kept.
"""

from __future__ import annotations

from collections import deque
from zlib import crc32

NUM_KEPT = 256
HASH_BITS = 62  # what fits a lane of the tick
HASH_MASK = (1 << HASH_BITS) - 1

Value = int | tuple[int, ...]


class OpKind:
    """One kind of operation: how its values read, e.g. OpKind("unlock receipt {}")."""

    __slots__ = ("code", "template")

    def __init__(self, template: str) -> None:
        self.template = template
        self.code = crc32(template.encode())

    @classmethod
    def literal(cls, text: str) -> OpKind:
        """A kind of its own, with no values: for what happens once, or is looked at closely."""
        return cls(text.replace("{", "{{").replace("}", "}}"))


class OpLog:
    """A ring of the last NUM_KEPT operations.

    The hash is a chain: equal on two ranks as long as they did the same operations in the same
    order. It is of tuples of ints, which is the same in every process and in every 64-bit CPython
    since 3.8; that of strings is not.
    """

    def __init__(self) -> None:
        self.num_ops = 0
        self._chain = 0
        self._ring: deque[tuple[int, OpKind, tuple[Value, ...]]] = deque(maxlen=NUM_KEPT)

    def add(self, kind: OpKind, *values: Value) -> None:
        """One more operation. No value may be None or text."""
        self._chain = chain = hash((self._chain, kind.code, values))
        self._ring.append((chain, kind, values))
        self.num_ops += 1

    @property
    def hash(self) -> int:
        """Of all operations so far, in [0, 2^62)."""
        return self._chain & HASH_MASK

    @property
    def first(self) -> int:
        """The number of the oldest operation that is kept; the first ever is number 0."""
        return self.num_ops - len(self._ring)

    def hash_after(self, op: int) -> int:
        """The hash when operation number `op` was done; IndexError for one that is not kept."""
        return self._kept(op)[0] & HASH_MASK

    def text(self, op: int) -> str:
        """Operation number `op` in words; IndexError for one that is not kept."""
        _, kind, values = self._kept(op)
        return kind.template.format(*values)

    def _kept(self, op: int) -> tuple[int, OpKind, tuple[Value, ...]]:
        if not self.first <= op < self.num_ops:
            raise IndexError(f"operation {op} not in [{self.first}, {self.num_ops})")
        return self._ring[op - self.first]
