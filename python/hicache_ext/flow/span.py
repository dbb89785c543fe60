"""The span of a prefetch: what is asked of L3.

prompt   [ p0 p1 | p2 p3 | p4 p5 p6 ] ..      .. one token and what fills no page: to compute
tree       A: L2   B: L1   -
span               [ p2 p3 p4 p5 p6 ]         from the anchor A; only 3, 4, 5 pages of it
                                              reach beyond what the tree has: endpoints
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hicache_ext.keys import namespace_seed, page_keys
from hicache_ext.tree.key import KeyUnit
from hicache_ext.tree.radix import RadixTree


class Request(NamedTuple):
    """A prompt, packed by the tree, and whose it is."""

    tokens: bytes
    namespace: bytes


class Rest(NamedTuple):
    """What follows the anchor, before any of it is hashed."""

    anchor: int  # the deepest node of the match that L2 has
    num_matched_tokens: int  # up to the anchor
    num_device_pages: int  # behind it, those that L1 has and L2 has not
    num_pages: int  # and with those that both lack
    tokens: bytes  # of all these pages


@dataclass
class Span:
    """`len(keys)` pages that follow the node `anchor`."""

    anchor: int
    namespace: bytes
    num_device_pages: int  # the first ones, which L1 has: a hit must reach beyond them
    page_size: int
    tokens: bytes  # packed by the tree, from the anchor on
    keys: list[bytes]  # one per page
    windows: dict[str, int]  # pages of each window pool; a span that is shorter than a window ...

    @property
    def num_tokens(self) -> int:
        return len(self.keys) * self.page_size

    @property
    def window_pages(self) -> dict[str, int]:
        """... brings what lies in it: the rest lies before the span, where the match has it."""
        return self._window_pages(len(self.keys))

    def _window_pages(self, num_pages: int) -> dict[str, int]:
        return {name: min(num_window, num_pages) for name, num_window in self.windows.items()}

    def need(self, num_pages: int) -> dict[str, int]:
        """Host pages per pool for the first `num_pages` and the window that ends there."""
        return {"full": num_pages, **self._window_pages(num_pages)}

    @property
    def has_whole_windows(self) -> bool:
        """Each window reaches back to the anchor, so that an endpoint below has its own as well."""
        return all(num_pages == len(self.keys) for num_pages in self.window_pages.values())

    def restorable(self, num_full: int, num_window: Mapping[str, int]) -> int:
        """The largest endpoint for which enough leading pages of each pool have arrived."""
        if num_full == len(self.keys) and all(
            num_window[name] >= num_pages for name, num_pages in self.window_pages.items()
        ):
            return num_full
        if not self.has_whole_windows:
            return 0
        return min([num_full, *(num_window[name] for name in self.windows)])

    def tokens_of(self, num_pages: int) -> bytes:
        """Those of the first `num_pages`."""
        return self.tokens[: len(self.tokens) // len(self.keys) * num_pages]

    def cut(self, num_pages: int) -> None:
        """Shortens the span to the endpoint that was agreed; its window ends there."""
        self.tokens, self.keys = self.tokens_of(num_pages), self.keys[:num_pages]


def find_rest(tree: RadixTree, request: Request) -> Rest | None:
    """What L1 and L2 lack of the prompt, less one token to compute; None if they lack nothing."""
    # N tokens are N - 1 pairs already.
    num_to_compute = 1 if tree.unit is KeyUnit.TOKEN else 0
    size, unit_bytes = tree.page_size, tree.unit.num_bytes
    num_pages = max(0, len(request.tokens) // unit_bytes - num_to_compute) // size
    usable = request.tokens[: num_pages * size * unit_bytes]
    found = tree.match_prefix(usable, request.namespace)
    if found.num_tokens >= num_pages * size:
        return None
    begin = found.num_host_tokens
    num_device_pages = (found.num_tokens - begin) // size
    rest = usable[begin * unit_bytes :]
    return Rest(found.host_node, begin, num_device_pages, num_pages - begin // size, rest)


def make_span(
    tree: RadixTree, rest: Rest, namespace: bytes, windows: Mapping[str, int], max_pages: int
) -> Span:
    """Hashes the first `max_pages` of `rest`; `windows`: the pages of each window pool."""
    tokens = rest.tokens[: len(rest.tokens) // rest.num_pages * max_pages]
    seed = tree.keys(rest.anchor)[-1] if rest.num_matched_tokens else namespace_seed(namespace)
    keys = page_keys(tokens, tree.page_size * tree.unit.num_words, seed)
    size, windows = tree.page_size, dict(windows)
    return Span(rest.anchor, namespace, rest.num_device_pages, size, tokens, keys, windows)
