"""What the calls of the tree return. Lengths are tokens, always whole pages; nodes are ids."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hicache_ext.tier import Tier


class HostPaths(Enum):
    """What the host may have of a path."""

    WHOLE = "whole"  # a node only below one that it has: a path is restored from its beginning (I2)
    GAPS = "gaps"  # any node: for write_back, which backs up what the device is about to give up


@dataclass(frozen=True)
class MatchResult:
    """How far a prompt is known, by what one may do with it."""

    node: int  # deepest node at which every component is satisfied, device and host pages counting
    num_tokens: int
    device_node: int  # the same with device pages alone; an ancestor of `node`, or `node`
    num_device_tokens: int
    # Deepest ancestor-or-self of `node` that host pages may lie below, a prefetch's anchor: one on
    # the host itself, or with HostPaths.GAPS `node`.
    host_node: int
    num_host_tokens: int
    full_node: int  # deepest node with base pages at all, windows or not
    num_full_tokens: int

    @property
    def num_branching_tokens(self) -> int | None:
        """Where prompts part from this one, if no match can end there yet: a request that computes
        past it should end a chunk there, so that a window or state is kept. Else None.
        """
        return self.num_full_tokens if self.num_full_tokens > self.num_tokens else None


@dataclass(frozen=True)
class PageCounts:
    """Pages of one component on one tier."""

    num_evictable: int  # at nodes where it is not locked: the most that an eviction can free
    num_protected: int


@dataclass(frozen=True)
class InsertResult:
    """`released` has every component's name; its ids are the caller's again."""

    node: int
    num_tokens: int
    num_present_tokens: int  # leading tokens whose base pages were on the device before
    released: dict[str, list[int]]


@dataclass(frozen=True)
class InsertHostResult:
    """`node` is None if the graft was dropped: then all pages are in `released`."""

    node: int | None
    total_tokens: int  # tokens of the span, from the anchor
    num_present_tokens: int  # leading tokens of the span whose base pages were on the host before
    released: list[int]


@dataclass(frozen=True)
class EvictResult:
    """Page ids that are free now, by component, in the order in which they were given up."""

    device: dict[str, list[int]]
    host: dict[str, list[int]]

    @property
    def num_freed(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Pages by component, of the device and of the host."""
        return tuple(map(len, self.device.values())), tuple(map(len, self.host.values()))

    def on(self, tier: Tier) -> dict[str, list[int]]:
        return self.device if tier == Tier.DEVICE else self.host


@dataclass(frozen=True)
class WindowResult:
    """attached + released are the pages that were handed in, each once."""

    attached: list[int]
    released: list[int]


@dataclass(frozen=True, eq=False)
class Receipt:
    """Proof of a lock; give it back to unlock(). Equal only to itself."""

    id: int
    node: int
    tier: Tier
    num_pages: tuple[int, ...]  # by component: pages locked, counted back from the end of `node`


class Pin(Receipt):
    """A plan's lock, which its commit or abort gives back: no receipt of a caller."""


@dataclass(frozen=True)
class Span:
    """One node's pages of one component, to be copied to another tier."""

    node: int
    component: str
    num_pages: int  # of the node when the plan was made: it may be split before the commit
    pages: list[int]  # where to copy from


@dataclass(frozen=True, eq=False)
class TransferPlan:
    """Pages to copy, root-first; their nodes are pinned until the plan is committed or aborted."""

    id: int
    node: int
    target: Tier
    spans: tuple[Span, ...]
    components: tuple[str, ...]
    receipts: tuple[Pin, ...]

    @property
    def num_pages(self) -> dict[str, int]:
        """Target pages that a commit needs, by component."""
        return {name: len(ids) for name, ids in self._source_pages().items()}

    @property
    def reach(self) -> dict[str, int]:
        """Pages back from the end of `node` that the spans lie in, by component."""
        return dict(zip(self.components, self.receipts[0].num_pages, strict=True))

    def _source_pages(self) -> dict[str, list[int]]:
        pages: dict[str, list[int]] = {name: [] for name in self.components}
        for span in self.spans:
            pages[span.component].extend(span.pages)
        return pages


class BackupPlan(TransferPlan):
    """Device to host."""

    @property
    def device_pages(self) -> dict[str, list[int]]:
        """Where to copy from, by component, in span order."""
        return self._source_pages()


class LoadBackPlan(TransferPlan):
    """Host to device."""

    @property
    def host_pages(self) -> dict[str, list[int]]:
        """Where to copy from, by component, in span order."""
        return self._source_pages()
