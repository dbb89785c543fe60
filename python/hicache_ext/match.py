"""What a request holds on the cache: the prefix that it matched, locked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hicache_ext.errors import TreeError
from hicache_ext.flow.load_back import Load
from hicache_ext.tier import Tier
from hicache_ext.tree.radix import RadixTree
from hicache_ext.tree.results import Receipt


@dataclass
class Match:
    """A matched prefix and the locks that keep it. Made by `HiCache.match`, ended by `release`.

    The prefix of `num_tokens` tokens can be used after a load-back, `num_device_tokens` of it at
    once: their pages are in `pages`, one id per page, -1 where the page is outside the window.
    `insert` and a finished load-back update the object in place.
    """

    tokens: bytes  # as given to match or insert, packed by the tree
    namespace: bytes
    node: int
    num_tokens: int
    num_device_tokens: int = 0
    num_branching_tokens: int | None = None  # as the tree's MatchResult has it, when it was made
    pages: dict[str, list[int]] = field(default_factory=dict)
    loading: bool = False  # a load-back for it is in flight
    load: Load | None = None  # the last load-back, layer by layer
    is_parking: bool = False  # the request is being retracted
    spare: dict[str, list[int]] = field(default_factory=dict, repr=False)
    """Device pages that a load-back brought and the tree did not need; freed at the release."""
    released: bool = False
    request: str | None = None  # its name
    _receipts: list[Receipt] = field(default_factory=list, repr=False)
    _tree: RadixTree | None = field(default=None, repr=False)

    @property
    def num_host_tokens(self) -> int:
        """Tokens that a load-back would add to the device prefix."""
        return self.num_tokens - self.num_device_tokens

    def hold(
        self, tree: RadixTree, device_node: int, num_device_tokens: int, windows: Mapping[str, int]
    ) -> None:
        """Locks the match where it now stands, then drops the older locks.

        `windows` has the window pages of each window pool.
        """
        self._tree, old = tree, self._receipts
        # Beyond the device prefix, too, a page may be on the device alone.
        on_device = [device_node] if device_node == self.node else [device_node, self.node]
        self._receipts = [tree.lock(node, Tier.DEVICE) for node in on_device]
        self._receipts.append(tree.lock(self.node, Tier.HOST))
        for receipt in old:
            tree.unlock(receipt)
        self.num_device_tokens = num_device_tokens
        full = tree.path_pages(device_node, "full", Tier.DEVICE)
        self.pages = {"full": full}
        for name, num_window in windows.items():
            # Only the window is locked; pages before it can be evicted and reused by others.
            window = tree.path_pages(device_node, name, Tier.DEVICE, last=num_window)
            self.pages[name] = [-1] * (len(full) - len(window)) + window

    def check_extends(
        self,
        tokens: bytes,
        pages: Mapping[str, Sequence[int]],
        windows: Mapping[str, int],
        unit_bytes: int,
    ) -> None:
        """TreeError unless `tokens` begin with the device prefix and `pages` hold their window.

        `unit_bytes`: of one token as the tree packs it.
        """
        if not tokens.startswith(self.tokens[: unit_bytes * self.num_device_tokens]):
            raise TreeError(f"the tokens do not begin with those of node {self.node}")
        for name, num_window in windows.items():
            ids = pages[name]
            for position in range(max(0, len(ids) - num_window), len(ids)):
                if ids[position] < 0:
                    raise TreeError(
                        f"{name} page {position} of {len(ids)} is not given, and a window is the "
                        f"last {num_window}"
                    )

    def drop(self, tree: RadixTree) -> None:
        """Gives the locks back."""
        for receipt in self._receipts:
            tree.unlock(receipt)
        self._receipts = []
        self.released = True

    def release_windows(self, tree: RadixTree, windows: Iterable[str]) -> None:
        """Gives the locks of these pools back; their pages may be evicted and are told no more."""
        for name in windows:
            self._receipts = [tree.release_window(receipt, name) for receipt in self._receipts]
            self.pages[name] = [-1] * len(self.pages[name])

    def is_of(self, tree: RadixTree) -> bool:
        """Whether its node and its locks are in `tree`."""
        return self._tree is tree


def check_match(match: object, tree: RadixTree) -> None:
    """TreeError for what is no match, no longer one, or a match of another cache's tree."""
    if not isinstance(match, Match):
        raise TreeError(f"{match!r} is no match")
    if not match.is_of(tree):
        raise TreeError(f"the match of node {match.node} is of another cache")
    if match.released:
        raise TreeError(f"the match of node {match.node} was released already")
