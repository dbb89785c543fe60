"""The node of the radix tree and its part per component. Data only: the rules live in the files
beside it.
"""

from __future__ import annotations

from hicache_ext.tier import Tier

TIERS = (Tier.DEVICE, Tier.HOST)  # what a tree holds pages on; storage is known by keys alone


class Part:
    """What one component holds at one node."""

    __slots__ = ("locks", "pages", "queued", "used_at")

    def __init__(self) -> None:
        self.pages: list[list[int] | None] = [None, None]  # by tier; the whole node's value or None
        self.locks: list[int] = [0, 0]  # by tier; a lock also counts where there is no page
        self.queued: list[bool] = [
            False,
            False,
        ]  # by tier; whether an eviction queue knows the node
        self.used_at = 0  # logical clock of the last end point that needed it; 0: none has yet


class Node:
    """A page-aligned run of tokens below `parent`; a root is its own parent and has no tokens.

    root ──[ p0 p1 p2 ]── A ──[ p3 p4 ]── B        A: key p0..p2, end 3;  B: key p3 p4, end 5
                           └──[ p5 ]────── C        children are found by their first page
    """

    __slots__ = (
        "alive",
        "children",
        "children_on",
        "end",
        "hash_in_digest",
        "hashes",
        "id",
        "key",
        "key_hash",
        "made_at",
        "namespace",
        "num_hits",
        "parent",
        "parts",
        "priority",
    )

    def __init__(
        self,
        node_id: int,
        parent: Node | None,
        key: bytes,
        end: int,
        parts: list[Part],
        made_at: int,
    ) -> None:
        self.id = node_id
        self.parent: Node = self if parent is None else parent
        self.namespace: bytes = b"" if parent is None else parent.namespace
        self.key = key  # tokens of this edge, u32-LE
        self.end = end  # pages from the root to the end of this node; a split does not change it
        self.parts = parts  # by component, in the order of registration
        self.children: dict[bytes, Node] = {}  # by first page
        self.children_on: list[int] = [0, 0]  # by tier: children that hold base pages there
        self.hashes: bytes | None = None  # 32 bytes per page, once somebody asked for them
        self.made_at = made_at  # logical clock
        self.num_hits = 0  # matches through it, and the insert that made it; grows upwards
        self.priority = 0  # the highest that an insert through it had; grows upwards
        self.alive = True
        self.key_hash: int | None = None  # of `key`, of a root's namespace, for the digest
        self.hash_in_digest = 0  # what the digest's sum has of this node

    @property
    def is_root(self) -> bool:
        return self.parent is self

    @property
    def start(self) -> int:
        """Pages from the root to the beginning of this node."""
        return self.parent.end  # of a root: its own, 0

    @property
    def num_pages(self) -> int:
        return self.end - self.parent.end


def path(node: Node) -> list[Node]:
    """The nodes from below the root to `node`, root-first."""
    nodes: list[Node] = []
    while node.parent is not node:  # is_root, without the call
        nodes.append(node)
        node = node.parent
    nodes.reverse()
    return nodes


def covered_pages(node: Node, num_pages: int) -> int:
    """Pages of the whole nodes that cover the last `num_pages` pages before the end of `node`."""
    nodes = suffix(node, num_pages)
    return node.end - nodes[-1].start if nodes else 0


def suffix(node: Node, num_pages: int) -> list[Node]:
    """The nodes that cover the last `num_pages` pages before the end of `node`, bottom-up, whole
    nodes.
    """
    nodes: list[Node] = []
    begin = node.end - num_pages
    while node.parent is not node and node.end > begin:
        nodes.append(node)
        node = node.parent
    return nodes
