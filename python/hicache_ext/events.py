"""Events for routers: what this cache holds on which medium, in the form that they read.

The events of the tree (tree/events.py) become plain dicts, ready for msgpack, with the field names
and the order of vLLM's `vllm.distributed.kv_events`; NVIDIA Dynamo's router reads the same (its
`kv-router/src/zmq_wire`) and SGLang emits it. A batch is the array [time, events, dp_rank].

    BlockStored       block_hashes, parent_block_hash, token_ids, block_size, lora_id, medium,
                      lora_name, and cache_salt and tenant where the namespace has them
    BlockRemoved      block_hashes, medium
    AllBlocksCleared
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hicache_ext.errors import HiCacheError
from hicache_ext.keys import KEY_BYTES
from hicache_ext.namespace import Namespace
from hicache_ext.tier import Tier
from hicache_ext.tree.events import EventKind, PageEvent
from hicache_ext.tree.key import KeyUnit

Event = dict[str, Any]

MEDIUM = {Tier.DEVICE: "GPU", Tier.HOST: "CPU"}
"""As consumers name the tiers that a tree holds. A store ("DISK" to them) raises no events: it is
shared between engines and forgets pages by itself."""


def block_hash(key: bytes) -> int:
    """The first 8 bytes of a page key, big-endian and signed, as in SGLang's events."""
    return int.from_bytes(key[:8], "big", signed=True)


def router_events(events: Iterable[PageEvent], page_size: int, unit: KeyUnit) -> list[Event]:
    """The same events for routers; runs of pages that follow each other become one event.

    `unit` is that of the tree: with BIGRAM, `token_ids` are pairs and a block has `page_size` of
    them.
    """
    return [_event(run, page_size, unit) for run in _runs(events)]


def batch(events: list[Event], time_s: float, dp_rank: int | None = None) -> list[Any]:
    """What one message holds. `time_s` since the epoch; `dp_rank`: which data-parallel replica."""
    return [time_s, events, dp_rank]


def encode(batch: list[Any]) -> bytes:
    """The batch in msgpack, the payload of a ZeroMQ message. HiCacheError without msgspec.

    Any other msgpack encoder gives the same: a batch is made of lists, dicts, ints and text.
    """
    try:
        import msgspec
    except ImportError:
        raise HiCacheError("events.encode needs msgspec: pip install hicache_ext[events]") from None
    return bytes(msgspec.msgpack.encode(batch))


def _runs(events: Iterable[PageEvent]) -> list[list[PageEvent]]:
    runs: list[list[PageEvent]] = []
    for event in events:
        if runs and _follows(runs[-1][-1], event):
            runs[-1].append(event)
        else:
            runs.append([event])
    return runs


def _follows(last: PageEvent, event: PageEvent) -> bool:
    if (last.kind, last.tier) != (event.kind, event.tier):
        return False
    if event.kind == EventKind.STORED:
        return event.parent == last.keys[-KEY_BYTES:]
    return event.kind == EventKind.REMOVED


def _event(run: list[PageEvent], page_size: int, unit: KeyUnit) -> Event:
    event = run[0]
    if event.kind == EventKind.CLEARED:
        return {"type": "AllBlocksCleared"}
    keys = b"".join(e.keys for e in run)
    hashes = [block_hash(keys[i : i + KEY_BYTES]) for i in range(0, len(keys), KEY_BYTES)]
    medium = MEDIUM[event.tier]
    if event.kind == EventKind.REMOVED:
        return {"type": "BlockRemoved", "block_hashes": hashes, "medium": medium}
    lora_id, lora_name, more = _names(event.namespace)
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": block_hash(event.parent) if event.parent else None,
        "token_ids": unit.unpack(b"".join(e.tokens for e in run)),
        "block_size": page_size,
        "lora_id": lora_id,
        "medium": medium,
        "lora_name": lora_name,
        **more,
    }


def _names(namespace: bytes) -> tuple[int | None, str | None, dict[str, str]]:
    """LoRA by number and by name, and what else separates; a foreign namespace is a salt."""
    parts = Namespace.of(namespace) or Namespace(salt=namespace.hex())
    more = {"cache_salt": parts.salt, "tenant": parts.tenant}
    given = {name: text for name, text in more.items() if text is not None}
    if isinstance(parts.lora, int):
        return parts.lora, None, given
    return None, parts.lora, given
