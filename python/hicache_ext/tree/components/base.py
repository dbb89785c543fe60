"""What the tree asks of a component: the policy of one cache kind. A new kind is one file like
full.py.

The tree never names a component. It asks the hooks below and otherwise treats all alike, except for
the first, the base, which owns the structure: a node without base pages on any tier does not exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from hicache_ext.tree.node import Node

VIEW_ANY = 1  # pages on the device or on the host count
VIEW_DEVICE = 2  # only pages on the device count
VIEW_ALL = VIEW_ANY | VIEW_DEVICE


class Gate(Protocol):
    """Walks down one path with a match; stateful, one per walk."""

    def step(self, node: Node) -> int:
        """The views in which a match may end at the end of `node`: a mask of VIEW_*."""


class Component(ABC):
    """One cache kind. `name` is the pool's name; `idx` its place in the tree, set by bind()."""

    name: ClassVar[str]
    is_base: ClassVar[bool] = False
    rank: ClassVar[int]  # evicting a component takes those of lower rank at the node with it

    def __init__(self) -> None:
        self.idx = -1
        self.page_size = 0

    def bind(self, idx: int, page_size: int) -> None:
        """Called once by the tree that takes the component."""
        self.idx = idx
        self.page_size = page_size

    # --- match, lock, load back ----------------------------------------------------------------

    @abstractmethod
    def gate(self) -> Gate:
        """A fresh gate at the root, where every component is satisfied."""

    @abstractmethod
    def need(self, end: int) -> int:
        """How many pages back from its end a sequence of `end` pages needs; those that lie above
        the root do not count.

        A lock pins them, a touch refreshes them, a load-back brings them to the device: the whole
        nodes that cover them.
        """

    def can_end(self, node: Node) -> bool:
        """Whether a match may end in `node` at all, by what `node` holds on either tier."""
        return any(pages is not None for pages in node.parts[self.idx].pages)

    # --- what a node holds ------------------------------------------------------------------------
    # `ids` is one page id per page of a run of tokens, -1 where nothing is handed over. A value is
    # what a node keeps of it. The default is one page per page of the node: all of them or no
    # value.

    def cuts(self, ids: Sequence[int]) -> list[int]:
        """Where a run must be cut (0 < cut < len) so that each piece has a value or none."""
        return [i for i in range(1, len(ids)) if (ids[i] < 0) != (ids[i - 1] < 0)]

    def value(self, ids: Sequence[int]) -> list[int] | None:
        """The value of one piece, after the cuts; ids that are not in it go back to the caller."""
        return list(ids) if len(ids) and min(ids) >= 0 else None

    def divide(
        self, value: list[int], num_prefix_pages: int
    ) -> tuple[list[int] | None, list[int] | None]:
        """Divide a node's value for a split behind `num_prefix_pages` pages."""
        return value[:num_prefix_pages], value[num_prefix_pages:]

    def spread(self, value: list[int], num_pages: int) -> list[int]:
        """The value as one id per page of the node, -1 where there is none."""
        return value

    def violations(self, node: Node) -> list[str]:
        """What is wrong with this component's part of `node`, in words; for check_integrity()."""
        found = []
        for tier, value in zip(("device", "host"), node.parts[self.idx].pages, strict=True):
            if value is not None and len(value) != node.num_pages:
                found.append(f"{self.name} {tier}: {len(value)} pages on {node.num_pages} (I10)")
        return found
