"""The whole cache under a model: what comes back from L1, L2 and L3 is what was never away.

A small random Gemma-3 here; the same proof with the real model is test_gemma_restore.py.
"""

import random

import pytest
import torch
from paged_runs import chunks, plain_forward
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from hicache_ext.errors import CapacityError, LayoutError
from hicache_ext.flow.record import Outcome
from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.model_pools import (
    CacheShape,
    ModelCache,
    model_revision,
    num_pages_for,
)
from hicache_ext.integrations.models import small_config, small_model
from hicache_ext.integrations.runner import PagedRunner
from hicache_ext.storage import SegmentStore
from hicache_ext.storage.faulty import FaultyStore
from hicache_ext.storage.memory import MemoryStore
from hicache_ext.tier import Tier

WINDOW, PAGE, CHUNK, HALF, PROMPT, ANSWER = 22, 4, 16, 32, 64, 8


@pytest.fixture(scope="module")
def model():
    return small_model(small_config(window=WINDOW, num_kv_heads=2))


@pytest.fixture(scope="module")
def tokens():
    rng = random.Random(11)
    return [rng.randrange(512) for _ in range(PROMPT + 3)]  # a document and a question


@pytest.fixture(scope="module")
def hot(model, tokens):
    return hot_answer(model, tokens)


@pytest.fixture(scope="module")
def shape(model):
    pattern = attention_pattern(model.config)
    pages = num_pages_for(
        pattern, PAGE, num_tokens=PROMPT + 3 + ANSWER, chunk_tokens=CHUNK, windows=2
    )
    return CacheShape(pattern, PAGE, pages)


def hot_answer(model, tokens):
    """Greedy answer of transformers with its own cache and the same chunks; logits [n, v]."""
    cache = DynamicCache(config=model.config)
    for part in chunks(tokens, CHUNK):
        logits = plain_forward(model, cache, part, 1)
    rows = [logits[-1]]
    for _ in range(ANSWER - 1):
        rows.append(plain_forward(model, cache, [int(rows[-1].argmax())], 1)[-1])
    return torch.stack(rows)


def runner(model, shape, store=None):
    return PagedRunner(model, ModelCache.open(shape, store=store), CHUNK)


def settled(run):
    run.pages.cache.drain()
    run.pages.cache.check_integrity()
    return run.pages.cache


def test_l1_then_l2_equal_hot(model, shape, tokens, hot):
    run = runner(model, shape, MemoryStore(shape.page_bytes()))
    with run.pages:
        cold = run.answer(tokens, ANSWER, shared=[PROMPT])
        cache = settled(run)
        warm = run.answer(tokens, ANSWER, shared=[PROMPT])
        settled(run)
        cache.flush(Tier.DEVICE)
        from_host = run.answer(tokens, ANSWER, shared=[PROMPT])
        settled(run)
    for reply, tier in ((cold, None), (warm, Tier.DEVICE), (from_host, Tier.HOST)):
        assert torch.equal(reply.logits, hot)
        assert reply.token_ids == hot.argmax(-1).tolist()
        want = {t: PROMPT if t == tier else 0 for t in Tier}
        assert reply.num_hit_tokens == want
    assert from_host.num_copied_bytes > 0


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_l3_in_a_new_cache_equals_hot(model, shape, tokens, hot, kind, tmp_path):
    def open_store():
        if kind == "memory":
            return shared_memory
        namespaces = shape.namespaces("small", model_revision(model), "replicated")
        return SegmentStore(tmp_path / "store", namespaces, shape.page_bytes())

    shared_memory = KeptOpen(MemoryStore(shape.page_bytes()))
    first = runner(model, shape, open_store())
    with first.pages:
        first.answer(tokens, 1, shared=[PROMPT])
        settled(first)
    again = runner(model, shape, open_store())
    with again.pages:
        reply = again.answer(tokens, ANSWER, shared=[PROMPT])
        settled(again)
    assert torch.equal(reply.logits, hot)
    assert reply.num_hit_tokens == {Tier.DEVICE: 0, Tier.HOST: 0, Tier.STORAGE: PROMPT}
    num_bytes = shape.page_bytes()
    assert reply.num_read_bytes == 16 * num_bytes["full"] + 6 * num_bytes["swa"]


class KeptOpen(FaultyStore):
    """A store that outlives the caches that use it; counts and injects like FaultyStore."""

    def close(self):
        pass


def test_lost_window_page_falls_back_to_the_shorter_endpoint(model, shape, tokens, hot):
    store = KeptOpen(MemoryStore(shape.page_bytes()))
    first = runner(model, shape, store)
    with first.pages:
        first.answer(tokens, 1, shared=[HALF, PROMPT])
        keys = first.pages.cache.tree.keys(
            first.pages.cache.tree.match_prefix(tokens[:PROMPT]).node
        )
        settled(first)
    again = runner(model, shape, store)
    with again.pages:
        again.answer(tokens[: HALF + 1], 1)
        settled(again)
        store.faults.lost_on_read = {("swa", keys[-2])}
        reply = again.answer(tokens, ANSWER, shared=[PROMPT])
        settled(again)
    assert reply.prefetch.outcome == Outcome.COMMITTED
    assert reply.prefetch.losses and reply.prefetch.num_attached_pages == {}
    assert reply.num_hit_tokens[Tier.DEVICE] == HALF
    assert torch.equal(reply.logits, hot)


def test_full_attention_model_restores_too(tokens):
    """No sliding layers: no window pool, no window; every endpoint can be restored."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(3)
    llama = LlamaForCausalLM(config).eval()
    pattern = attention_pattern(config)
    pages = num_pages_for(pattern, PAGE, num_tokens=96, chunk_tokens=CHUNK, windows=2)
    shape = CacheShape(pattern, PAGE, pages)
    store = KeptOpen(MemoryStore(shape.page_bytes()))
    first = runner(llama, shape, store)
    with first.pages:
        cold = first.answer(tokens, ANSWER, shared=[PROMPT])
        settled(first)
    again = runner(llama, shape, store)
    with again.pages:
        reply = again.answer(tokens, ANSWER)
    assert list(shape.num_pages["device"]) == ["full"]
    assert reply.num_hit_tokens[Tier.STORAGE] == PROMPT
    assert torch.equal(cold.logits, hot_answer(llama, tokens))
    assert torch.equal(reply.logits, cold.logits)


def test_corrupt_kv_in_the_store_would_show(model, shape, tokens, hot):
    """The test can fail: a page of zeros, stored under the right key, changes the logits."""
    store = KeptOpen(MemoryStore(shape.page_bytes()))
    first = runner(model, shape, store)
    with first.pages:
        first.answer(tokens, 1, shared=[PROMPT])
        settled(first)
        tree = first.pages.cache.tree
        key = tree.keys(tree.match_prefix(tokens[:PROMPT]).node)[3]
    store.remove("full", [key])
    store.write_from("full", [key], [memoryview(bytes(shape.page_bytes()["full"]))])
    again = runner(model, shape, store)
    with again.pages:
        reply = again.answer(tokens, ANSWER)
    assert reply.num_hit_tokens[Tier.STORAGE] == PROMPT
    assert (reply.logits - hot).abs().max() > 1e-3


def test_full_pool_is_a_capacity_error_and_leaks_nothing(model, shape, tokens):
    device = {"full": 4, "swa": shape.num_pages["device"]["swa"]}
    small = CacheShape(shape.pattern, PAGE, {**shape.num_pages, "device": device})
    run = runner(model, small)
    with run.pages:
        with pytest.raises(CapacityError, match="no device pages for 16 tokens"):
            run.answer(tokens, ANSWER)
        settled(run)
        assert run.pages.device["full"].num_free == 4
        assert run.pages.device["swa"].num_free == device["swa"]


def test_chunk_must_be_whole_pages(model, shape):
    with ModelCache.open(shape) as pages, pytest.raises(LayoutError, match="chunk_tokens=6"):
        PagedRunner(model, pages, 6)


def test_revision_sees_one_weight(model):
    other = small_model(small_config(window=WINDOW, num_kv_heads=2))
    assert model_revision(other) == model_revision(model)
    with torch.no_grad():
        other.model.layers[3].mlp.up_proj.weight[0, 0] += 1
    assert model_revision(other) != model_revision(model)
