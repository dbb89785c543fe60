"""A router as the events' consumers build it: which blocks are where, from events alone.

Strict where real ones forgive: a block is stored once, below a parent that is there, and removed
only where it is. Under write-back a block may be on the CPU below one that is on the GPU alone.
"""

from __future__ import annotations

from typing import Any


class Router:
    """Blocks by medium, each with its parent, its tokens and what separates it."""

    def __init__(self, page_size: int, has_gaps: bool = False) -> None:
        self.page_size = page_size
        self.has_gaps = has_gaps
        self.blocks: dict[str, dict[int, tuple[int | None, tuple[Any, ...], tuple[Any, ...]]]] = {
            "GPU": {},
            "CPU": {},
        }

    def take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            getattr(self, event["type"])(**{k: v for k, v in event.items() if k != "type"})

    def BlockStored(
        self,
        block_hashes: list[int],
        parent_block_hash: int | None,
        token_ids: list[Any],
        block_size: int,
        lora_id: int | None,
        medium: str,
        lora_name: str | None,
        cache_salt: str | None = None,
        tenant: str | None = None,
    ) -> None:
        blocks, parent = self.blocks[medium], parent_block_hash
        assert block_size == self.page_size and len(token_ids) == block_size * len(block_hashes)
        assert parent is None or self.has(parent, medium), f"parent {parent} is not on {medium}"
        for i, block in enumerate(block_hashes):
            assert block not in blocks, f"{block} is on {medium} already"
            tokens = token_ids[i * block_size : (i + 1) * block_size]
            blocks[block] = parent, tuple(tokens), (lora_id, lora_name, cache_salt, tenant)
            parent = block

    def BlockRemoved(self, block_hashes: list[int], medium: str) -> None:
        blocks = self.blocks[medium]
        for block in block_hashes:
            del blocks[block]
        gone = {block for block in block_hashes if not self.has(block, medium)}
        orphans = [b for b, (parent, *_) in blocks.items() if parent in gone]
        assert not orphans, f"{orphans} on {medium} have lost their parent"

    def has(self, block: int, medium: str) -> bool:
        """Whether a block below this one may be on `medium`."""
        return block in self.blocks[medium] or (self.has_gaps and block in self.blocks["GPU"])

    def AllBlocksCleared(self) -> None:
        for blocks in self.blocks.values():
            blocks.clear()
