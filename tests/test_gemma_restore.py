"""The proof with the real model: page 16, chunk 512, prompt 2048, 64 positions; minutes.

Restored from L2, and from L3 in a process of its own, the logits equal bit for bit those of
transformers with its own cache kept in memory. Then each fault that a cache can have is made, in
the restored pages, and must be seen; the one that logits cannot show must be seen in the bytes.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paged_runs import chunks, plain_forward
from transformers import DynamicCache

from hicache_ext.cli.demo_plan import document_text
from hicache_ext.errors import ModelError
from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.gemma_weights import ensure_gemma3_270m
from hicache_ext.integrations.model_pools import (
    CacheShape,
    ModelCache,
    model_revision,
    num_pages_for,
)
from hicache_ext.integrations.models import load_model, load_tokenizer
from hicache_ext.integrations.runner import PagedRunner
from hicache_ext.integrations.transformers import PagedCache
from hicache_ext.storage import SegmentStore
from hicache_ext.tier import Tier

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

PAGE, CHUNK, PROMPT, POSITIONS, QUESTION = 16, 512, 2048, 64, 8
FAULT_POSITIONS = 32
NOISE, MAX_KL = 1e-3, 1e-7
HERE = Path(__file__).parent


class Scene:
    """The model, a prompt of real English, and the references; made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = str(ensure_gemma3_270m())
        self.model = load_model(self.source)
        ids = load_tokenizer(self.source)(document_text())["input_ids"]
        self.tokens = ids[: PROMPT + QUESTION]
        self.other = [ids[0], *ids[20000 : 20000 + PROMPT - 1]]
        self.hot = self.plain(CHUNK)
        self.shape = gemma_shape(self.model)
        (folder / "tokens.json").write_text(json.dumps(self.tokens))

    @torch.inference_mode()
    def plain(self, chunk: int) -> torch.Tensor:
        """transformers alone: logits [POSITIONS, vocab] of the greedy answer."""
        cache = DynamicCache(config=self.model.config)
        for part in chunks(self.tokens[:PROMPT], chunk):
            plain_forward(self.model, cache, part, 1)
        rows = [plain_forward(self.model, cache, self.tokens[PROMPT:], 1)[-1]]
        while len(rows) < POSITIONS:
            rows.append(plain_forward(self.model, cache, [int(rows[-1].argmax())], 1)[-1])
        return torch.stack(rows)

    def runner(self) -> PagedRunner:
        return gemma_runner(self.model, self.shape, self.folder)


def gemma_shape(model) -> CacheShape:
    pattern = attention_pattern(model.config)
    num_tokens = 2 * PROMPT + 4 * POSITIONS
    pages = num_pages_for(pattern, PAGE, num_tokens=num_tokens, chunk_tokens=CHUNK, windows=2)
    return CacheShape(pattern, PAGE, pages)


def gemma_runner(model, shape, folder) -> PagedRunner:
    namespaces = shape.namespaces("gemma3-270m", model_revision(model), "replicated")
    store = SegmentStore(folder / "store", namespaces, shape.page_bytes())
    return PagedRunner(model, ModelCache.open(shape, store=store), CHUNK)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    try:
        return Scene(tmp_path_factory.mktemp("gemma"))
    except ModelError as exc:
        pytest.skip(f"THE REAL MODEL WAS NOT RUN: {exc}")


@pytest.fixture(scope="module")
def warm(scene):
    """Cold through our pages, then from L2; leaves the prompt, and another one, in the store."""
    run = scene.runner()
    with run.pages:
        cold = run.answer(scene.tokens, POSITIONS, shared=[PROMPT])
        run.pages.cache.drain()
        digests = page_digests(run, scene.tokens)
        run.pages.cache.flush(Tier.DEVICE)
        from_host = run.answer(scene.tokens, POSITIONS, shared=[PROMPT])
        run.answer([*scene.other, 2], 1, shared=[PROMPT])
        run.pages.cache.drain()
        run.pages.cache.check_integrity()
    return cold, from_host, digests


def page_digests(run, tokens) -> dict[str, list[str]]:
    """SHA-256 of each device page of the restored prefix of `tokens`."""
    restored = run.restore(tokens)
    found = {}
    for name, page_ids in restored.match.pages.items():
        pages = run.pages.device[name].kv_view(torch.float32)
        found[name] = [
            hashlib.sha256(pages[:, :, i].contiguous().numpy().tobytes()).hexdigest()
            for i in page_ids
            if i >= 0
        ]
    run.pages.cache.release(restored.match)
    return found


def test_cold_and_l2_equal_hot(scene, warm):
    cold, from_host, _ = warm
    assert torch.equal(cold.logits, scene.hot)
    assert torch.equal(from_host.logits, scene.hot)
    assert from_host.num_hit_tokens[Tier.HOST] == PROMPT
    assert from_host.token_ids == scene.hot.argmax(-1).tolist()  # 64 greedy tokens


def test_l3_in_a_fresh_process_equals_hot(scene, warm):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "python")])}
    command = [sys.executable, str(HERE / "test_gemma_restore.py"), scene.source, scene.folder]
    subprocess.run(command, env=env, check=True, timeout=900)
    found = torch.load(scene.folder / "fresh.pt")
    assert torch.equal(found["logits"], scene.hot)
    assert found["token_ids"] == scene.hot.argmax(-1).tolist()
    assert found["num_hit_tokens"] == [0, 0, PROMPT]
    assert found["digests"] == warm[2]


def test_single_shot_prefill_is_within_noise(scene):
    single = scene.plain(PROMPT)
    assert (single - scene.hot).abs().max() < NOISE
    log_p, log_q = (logits.double().log_softmax(-1) for logits in (scene.hot, single))
    assert (log_p.exp() * (log_p - log_q)).sum(-1).max() < MAX_KL
    assert single.argmax(-1).tolist() == scene.hot.argmax(-1).tolist()


# Negative controls: a restored cache, one fault in its pages, the same teacher-forced positions.


@pytest.fixture(scope="module")
def restored(scene, warm):
    """The prompt and the other prompt in L1, from L3; (runner, own pages, the other's pages)."""
    run = scene.runner()
    mine = run.restore(scene.tokens).match
    other = run.restore([*scene.other, 2]).match
    yield run, mine, other
    run.pages.cache.release(mine)
    run.pages.cache.release(other)
    run.pages.close()


@torch.inference_mode()
def forced(scene, run, pages, num_positions=POSITIONS) -> torch.Tensor:
    """Logits after the question and after each token of the hot answer, from `pages`."""
    sequence = PagedCache(run.pages.shape.pattern, run.pages.device, torch.float32)
    sequence.restore(PROMPT, pages)
    new = {name: run.pages.cache.alloc({name: 8})[name] for name in run.pages.device}
    sequence.append(new)
    rows = []
    for ids in [scene.tokens[PROMPT:], *([t] for t in scene.hot.argmax(-1)[: num_positions - 1])]:
        rows.append(plain_forward(scene.model, sequence, [int(t) for t in ids], 1)[-1])
    run.pages.cache.free(new)
    return torch.stack(rows)


def view(run, name):
    return run.pages.device[name].kv_view(torch.float32)


def zeroed(run, mine, other):
    view(run, "full")[:, :, mine.pages["full"][40]] = 0


def short_window(run, mine, other):
    oldest = next(i for i in mine.pages["swa"] if i >= 0)
    view(run, "swa")[:, :, oldest] = 0


def exchanged(run, mine, other):
    page = view(run, "full")[:, :, mine.pages["full"][40]]
    page.copy_(page.flip(0).clone())


def foreign_full(run, mine, other):
    pages = view(run, "full")
    pages[:, :, mine.pages["full"][40]] = pages[:, :, other.pages["full"][40]]


def foreign_swa(run, mine, other):
    pages = view(run, "swa")
    pages[:, :, mine.pages["swa"][-1]] = pages[:, :, other.pages["swa"][-1]]


def test_untouched_pages_equal_hot(scene, restored):
    run, mine, _ = restored
    assert torch.equal(forced(scene, run, mine.pages), scene.hot)


@pytest.mark.parametrize("fault", [zeroed, short_window, exchanged, foreign_full, foreign_swa])
def test_fault_is_caught(scene, restored, fault):
    run, mine, other = restored
    before = {name: view(run, name).clone() for name in run.pages.device}
    try:
        fault(run, mine, other)
        logits = forced(scene, run, mine.pages, FAULT_POSITIONS)
    finally:
        for name, content in before.items():
            view(run, name).copy_(content)
    hot = scene.hot[:FAULT_POSITIONS]
    assert not torch.equal(logits, hot)
    assert (logits - hot).abs().max() > NOISE


def test_two_pages_swapped_show_in_bytes_only(scene, restored, warm):
    run, mine, _ = restored
    first, second = mine.pages["full"][30], mine.pages["full"][50]
    pages = view(run, "full")
    pages[:, :, [first, second]] = pages[:, :, [second, first]].clone()
    try:
        logits = forced(scene, run, mine.pages)
        digests = page_digests(run, scene.tokens)
    finally:
        pages[:, :, [first, second]] = pages[:, :, [second, first]].clone()
    assert (logits - scene.hot).abs().max() < NOISE  # attention ignores the order of its keys
    assert digests != warm[2] and sorted(digests["full"]) == sorted(warm[2]["full"])


def main() -> None:
    """The fresh process: nothing but the model's folder and the store."""
    source, folder = sys.argv[1], Path(sys.argv[2])
    tokens = json.loads((folder / "tokens.json").read_text())
    model = load_model(source)
    run = gemma_runner(model, gemma_shape(model), folder)
    with run.pages:
        reply = run.answer(tokens, POSITIONS)
        run.pages.cache.drain()
        digests = page_digests(run, tokens)
    hits = [reply.num_hit_tokens[tier] for tier in Tier]
    torch.save(
        {
            "logits": reply.logits,
            "token_ids": reply.token_ids,
            "num_hit_tokens": hits,
            "digests": digests,
        },
        folder / "fresh.pt",
    )


if __name__ == "__main__":
    main()
