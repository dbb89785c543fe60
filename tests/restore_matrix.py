"""One rank of test_restore_matrix: python tests/restore_matrix.py RANK SIZE SCENE FOLDER.

A prompt is answered with transformers' own cache kept in memory ("hot"), cold through our pages,
and then for each prefetch policy with what L3, L1 and L2 have of it, with what came too late, and
with a window that lacks a page on one rank. Every answer is cut into the same chunks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from paged_runs import chunks, plain_forward
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from hicache_ext.cli.demo_plan import document_text
from hicache_ext.flow import read
from hicache_ext.flow.op import Phase
from hicache_ext.flow.prefetch_rules import PrefetchPolicy, PrefetchRules
from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.model_pools import (
    CacheShape,
    ModelCache,
    model_revision,
    num_pages_for,
)
from hicache_ext.integrations.models import load_model, load_tokenizer, small_config, small_model
from hicache_ext.integrations.runner import PagedRunner, Reply
from hicache_ext.integrations.tensor_parallel import shard_model, shard_pattern
from hicache_ext.keys import page_keys
from hicache_ext.storage import SegmentStore
from hicache_ext.storage.faulty import FaultyStore
from hicache_ext.tier import Tier
from hicache_ext.tree.key import pack_tokens

HERE = Path(__file__).parent
SLOW_S = 0.4  # of each call of a slow store, unless it is told to stop

PATIENCE_S = 60.0
QUESTION = 3  # tokens: they fill no page


def first_call(store: FaultyStore, then_delay_s: float) -> Event:
    """Set when the read that comes next has ended, which is fast; those behind it are not."""
    read_into, has_ended = store.inner.read_into, Event()

    def read_once(*args: Any) -> list[bool]:
        store.inner.read_into = read_into
        found = read_into(*args)
        store.faults.delay_s = then_delay_s
        has_ended.set()
        return found

    store.inner.read_into = read_once
    return has_ended


@dataclass(frozen=True)
class Scene:
    """A model and a prompt: `half` and `prompt` are where its pages are handed to the cache."""

    source: str  # a folder, or "small"
    is_full_attention: bool  # the same weights without sliding windows
    page: int
    chunk: int
    half: int
    prompt: int
    answer: int

    def model(self) -> Any:
        if self.source == "small":
            config = small_config(window=22, num_kv_heads=2)
            self._change(config)
            return small_model(config)
        if not self.is_full_attention:
            return load_model(self.source)
        config = AutoConfig.from_pretrained(self.source)
        self._change(config)
        model = AutoModelForCausalLM.from_pretrained(
            self.source, config=config, dtype=torch.float32
        )
        return model.eval().requires_grad_(False)

    def _change(self, config: Any) -> None:
        if self.is_full_attention:
            config.layer_types = ["full_attention"] * len(config.layer_types)

    def tokens(self) -> list[int]:
        """The prompt and a few more for the question."""
        num = self.prompt + QUESTION
        if self.source == "small":
            return [(7 * i * i + 3 * i) % 512 for i in range(num)]
        found: list[int] = load_tokenizer(self.source)(document_text())["input_ids"][:num]
        return found


class Matrix:
    """All answers of one rank; `rows` says of each where it came from and whether it is hot's."""

    def __init__(self, scene: Scene, rank: int, size: int, folder: Path) -> None:
        self.scene, self.rank, self.size, self.folder = scene, rank, size, folder
        self.tokens = scene.tokens()
        self.model = scene.model()
        self.revision = model_revision(self.model)
        pattern, self.shard = attention_pattern(self.model.config), "replicated"
        if size > 1:
            shard = shard_model(self.model, rank, size)
            pattern, self.shard = shard_pattern(pattern, shard), shard.label
        pages = num_pages_for(
            pattern,
            scene.page,
            num_tokens=scene.prompt + QUESTION + scene.answer,
            chunk_tokens=scene.chunk,
            windows=2,
        )
        self.shape = CacheShape(pattern, scene.page, pages)
        # What comes of the first batch alone ends where a chunk does.
        read.READ_BATCH_BYTES = self.shape.page_bytes()["full"] * (scene.half // scene.page)
        self.rows: dict[str, Any] = {}
        self.hot = self.plain()

    @torch.inference_mode()
    def plain(self) -> torch.Tensor:
        """transformers alone, its own cache kept in memory: logits [answer, vocab]."""
        cache = DynamicCache(config=self.model.config)
        for part in chunks(self.tokens, self.scene.chunk):
            logits = plain_forward(self.model, cache, part, 1)
        rows = [logits[-1]]
        while len(rows) < self.scene.answer:
            rows.append(plain_forward(self.model, cache, [int(rows[-1].argmax())], 1)[-1])
        return torch.stack(rows)

    def open(self, policy: PrefetchPolicy, timeout_s: float = PATIENCE_S) -> PagedRunner:
        namespaces = self.shape.namespaces("model", self.revision, self.shard)
        folder = self.folder / f"store{self.rank}"
        store = FaultyStore(SegmentStore(folder, namespaces, self.shape.page_bytes()))
        pages = ModelCache.open(
            self.shape,
            store=store,
            group="auto",
            prefetch=PrefetchRules(policy, timeout_s, timeout_s_per_1k_tokens=0),
        )
        return PagedRunner(self.model, pages, self.scene.chunk)

    def answer(self, name: str, run: PagedRunner, shared: tuple[int, ...] = ()) -> Reply:
        reply = run.answer(self.tokens, self.scene.answer, shared=shared)
        run.pages.cache.drain()
        run.pages.cache.check_integrity()
        self.rows[name] = {
            "is_hot": torch.equal(reply.logits, self.hot),
            "hits": [reply.num_hit_tokens[tier] for tier in Tier],
            "digest": run.pages.cache.tree.digest,
            "core": type(run.pages.cache.tree).__name__,
        }
        return reply

    def run(self) -> dict[str, Any]:
        scene = self.scene
        with (cold := self.open(PrefetchPolicy.WAIT_COMPLETE)).pages:
            self.answer("cold", cold, shared=(scene.half, scene.prompt))
        for policy in PrefetchPolicy:
            self.hits(policy)
            self.late(policy)
            self.lost_page(policy)
        return {"rows": self.rows, "label": self.shard}

    def hits(self, policy: PrefetchPolicy) -> None:
        """From L3, then what is in L1 by then, then from L2 alone."""
        run = self.open(policy)
        with run.pages:
            if policy == PrefetchPolicy.BEST_EFFORT:  # waits for nothing: asked early enough
                run.pages.cache.prefetch(self.tokens)
                run.pages.cache.drain()
            self.answer(f"{policy.value} L3", run)
            self.answer(f"{policy.value} L1", run)
            run.pages.cache.flush(Tier.DEVICE)
            self.answer(f"{policy.value} L2", run)

    def late(self, policy: PrefetchPolicy) -> None:
        """One rank reads slowly, and the request comes meanwhile. A store that is gone by then
        makes it live on what has been read.
        """
        run = self.open(policy, timeout_s=0.0)
        with run.pages:
            cache, op_id = run.pages.cache, self.begin(run)
            has_first_batch = first_call(run.pages.store, SLOW_S if self.is_unlucky else 0.0)
            while cache._prefetches[op_id].phase != Phase.READ:
                cache.tick()
            assert has_first_batch.wait(PATIENCE_S)  # on every rank: the first to poll stops all
            while not cache.poll(op_id):
                cache.tick()
            self.live_on_that(f"{policy.value} late", run, op_id)
        if policy == PrefetchPolicy.BEST_EFFORT:
            with (run := self.open(policy)).pages:
                self.answer(f"{policy.value} at once", run)

    def lost_page(self, policy: PrefetchPolicy) -> None:
        """One rank cannot read a page: of the window, or without windows the first after half."""
        run, page = self.open(policy), self.scene.page
        keys = page_keys(pack_tokens(self.tokens), page)
        lost = ("full", keys[self.scene.half // page])
        if self.shape.pattern.window_tokens is not None:
            lost = ("swa", keys[self.scene.prompt // page - 2])
        with run.pages:
            if self.is_unlucky:
                run.pages.store.faults.lost_on_read = {lost}
            op_id = self.begin(run)
            run.pages.cache.drain()
            self.live_on_that(f"{policy.value} lost page", run, op_id)

    @property
    def is_unlucky(self) -> bool:
        return self.rank == self.size - 1

    def begin(self, run: PagedRunner) -> int:
        """A prefetch that is about to read, on every rank."""
        cache = run.pages.cache
        op_id = cache.prefetch(self.tokens)
        assert op_id is not None
        while not cache.explain(op_id).prefetch.num_agreed_tokens:
            cache.tick()
        return op_id

    def live_on_that(self, name: str, run: PagedRunner, op_id: int) -> None:
        run.pages.cache.detach_store()
        run.pages.cache.drain()
        self.answer(name, run)
        record = run.pages.cache.explain(op_id).prefetch
        self.rows[name] |= {
            "attached": record.num_attached_pages,
            "losses": [str(loss) for loss in record.losses],
        }


def main() -> None:
    rank, size, scene, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    if size > 1:
        meet = dist.FileStore(str(folder / "rendezvous"), size)
        dist.init_process_group("gloo", store=meet, rank=rank, world_size=size)
    matrix = Matrix(Scene(**json.loads(scene)), rank, size, folder)
    torch.save({"hot": matrix.hot, **matrix.run()}, folder / f"rank{rank}.pt")
    if size > 1:
        dist.destroy_process_group()


def run_ranks(scene: Scene, size: int, folder: Path, timeout_s: float) -> list[dict[str, Any]]:
    """What each rank saved; two or more are processes of their own."""
    if size == 1:
        matrix = Matrix(scene, 0, 1, folder)
        return [{"hot": matrix.hot, **matrix.run()}]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "python")])
    script, text = HERE / "restore_matrix.py", json.dumps(asdict(scene))
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), str(size), text, folder], env=env)
        for rank in range(size)
    ]
    try:
        assert [process.wait(timeout=timeout_s) for process in ranks] == [0] * size
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(size)]


if __name__ == "__main__":
    main()
