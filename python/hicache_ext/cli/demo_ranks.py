"""The demo's two tensor-parallel ranks: one store is slow and has lost a page of the window.

Both ranks answer on half the document and on all of it with the KV kept in memory, and write it
through. Then, with empty L1 and L2: half the document comes from L3; all of it is asked for, rank
1 loses one page, both drop what cannot be used, fall back to the half and recompute the rest.
"""

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hicache_ext.agreement.auto import make_group
from hicache_ext.agreement.schema import TickSchema
from hicache_ext.cli.demo_plan import DemoPlan
from hicache_ext.cli.demo_worker import load, open_store, progress, row, shape_of
from hicache_ext.config import CacheConfig
from hicache_ext.integrations.model_pools import CacheShape, ModelCache, model_revision
from hicache_ext.integrations.runner import PagedRunner, Reply
from hicache_ext.integrations.tensor_parallel import shard_model, shard_pattern
from hicache_ext.keys import page_keys
from hicache_ext.storage.faulty import FaultyStore
from hicache_ext.storage.protocol import PageStore
from hicache_ext.tree.key import pack_tokens

NUM_RANKS = 2
UNLUCKY = 1
MEETING_DEADLINE_S = 120.0
DELAY_S = 0.05  # of each call of the slow store


class RankDemo:
    """What one rank holds for the length of the stage."""

    def __init__(self, plan: DemoPlan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.model = load(plan, f"rank {rank}")
        self.revision = model_revision(self.model)
        shard = shard_model(self.model, rank, NUM_RANKS)
        document, question, *_ = json.loads((plan.folder / "tokens.json").read_text())
        self.half = plan.num_rank_tokens // 2
        self.prompts = {
            "half": document[: self.half] + question,
            "whole": document[: plan.num_rank_tokens] + question,
        }
        shape = shape_of(self.model, plan, plan.num_rank_tokens, windows=2)
        pattern = shard_pattern(shape.pattern, shard)
        self.shape = CacheShape(pattern, shape.page_size, shape.num_pages)
        # A replicated page is equal on both ranks, but each has its own store here: one fails.
        self.shard = shard.label

    def lost_page(self) -> tuple[str, bytes]:
        """A page of the whole document's window; without windows, the first after the half."""
        page_size = self.plan.page_size
        keys = page_keys(
            pack_tokens(self.prompts["whole"][: self.plan.num_rank_tokens]), page_size, b""
        )
        if self.shape.pattern.window_tokens is None:
            return "full", keys[self.half // page_size]
        return "swa", keys[-3]

    def serve(self, name: str, faulty: bool) -> tuple[dict[str, Reply], dict[str, Any]]:
        """Both prompts through a new cache over this rank's store."""
        plan = self.plan
        store: PageStore = open_store(
            plan, self.shape, self.revision, f"rank{self.rank}-of-{NUM_RANKS}", self.shard
        )
        if faulty and self.rank == UNLUCKY:
            store = FaultyStore(store, delay_s=DELAY_S, lost_on_read=[self.lost_page()])
        schema = TickSchema(self.shape.pattern.pools, CacheConfig(plan.page_size).num_slots)
        group = make_group(num_lanes=schema.num_lanes, deadline_s=MEETING_DEADLINE_S)
        run = PagedRunner(
            self.model, ModelCache.open(self.shape, store=store, group=group), plan.chunk_tokens
        )
        if self.rank == 0:
            run.progress = progress(f"two ranks, {name}")
        shared = [self.half, plan.num_rank_tokens]
        num_new = max(plan.num_answer_tokens // 4, 2)
        with run.pages:
            replies = {
                prompt: run.answer(tokens, num_new, shared=[n for n in shared if n < len(tokens)])
                for prompt, tokens in self.prompts.items()
            }
            run.pages.cache.drain()
            run.pages.cache.check_integrity()
            tree = {"tree_digest": run.pages.cache.tree.digest}
        group.close()
        return replies, tree


def stage_rank(plan: DemoPlan, rank: int) -> dict[str, Any]:
    """One rank's part; the parent compares the two results."""
    # A store and no file:// URL: torch reads the first folder of a relative one as a host name.
    path = str(Path(plan.store) / "rendezvous")
    meet = dist.FileStore(path, NUM_RANKS)  # type: ignore[attr-defined]
    deadline = timedelta(seconds=MEETING_DEADLINE_S)
    dist.init_process_group("gloo", store=meet, rank=rank, world_size=NUM_RANKS, timeout=deadline)
    demo = RankDemo(plan, rank)
    kept, _ = demo.serve("KV kept in memory", faulty=False)
    again, tree = demo.serve("one store slow, a page lost", faulty=True)
    dist.destroy_process_group()
    whole = again["whole"]
    hashes = {
        prompt: hashlib.sha256(reply.logits.numpy().tobytes()).hexdigest()
        for prompt, reply in again.items()
    }
    return {
        "rows": [
            row(f"rank {rank}, half, L3", again["half"], kept["half"].logits),
            row(f"rank {rank}, page lost", whole, kept["whole"].logits),
        ],
        "same_on_all_ranks": {
            **tree,
            "logits_sha256": hashes,
            "losses": [str(loss) for loss in whole.prefetch.losses] if whole.prefetch else [],
            "num_hit_tokens": {tier.name: n for tier, n in whole.num_hit_tokens.items()},
        },
        "fell_back_to": sum(whole.num_hit_tokens.values()),
        "expected_fall_back": demo.half,
    }
