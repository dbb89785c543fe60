"""PagedCache against transformers' own DynamicCache: bit for bit, and the faults that must show."""

import random

import pytest
import torch
from paged_runs import (
    HOLE,
    chunks,
    hot_run,
    make_pools,
    paged_forward,
    plain_forward,
    restore_pages,
    save_pages,
)
from transformers import DynamicCache

from hicache_ext.errors import LayoutError, ModelError, PageIndexError
from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.models import small_config, small_model
from hicache_ext.integrations.transformers import PagedCache

WINDOW, PAGE, CHUNK, PROMPT, SUFFIX = 22, 4, 16, 64, 8
NOISE = 1e-3  # chunked against single-shot stays far below


@pytest.fixture(scope="module")
def model():
    return small_model(small_config(window=WINDOW, num_kv_heads=2))


@pytest.fixture(scope="module")
def tokens():
    rng = random.Random(20)
    return [rng.randrange(512) for _ in range(PROMPT + SUFFIX)]


def prefilled(model, prompt, seed=1):
    pattern = attention_pattern(model.config)
    pools = make_pools(pattern, page_size=PAGE, seed=seed)
    cache = PagedCache(pattern, pools, torch.float32)
    for part in chunks(prompt, CHUNK):
        paged_forward(model, cache, pools, part, 1)
    return cache, pools


def decode(model, cache, pools, suffix):
    return torch.cat([paged_forward(model, cache, pools, [token]) for token in suffix])


@pytest.fixture(scope="module")
def hot(model, tokens):
    return hot_run(model, tokens[:PROMPT], tokens[PROMPT:], CHUNK)


@pytest.fixture(scope="module")
def saved(model, tokens):
    return save_pages(*prefilled(model, tokens[:PROMPT]))


def warm(model, tokens, saved):
    cache, pools = restore_pages(attention_pattern(model.config), saved, PROMPT, seed=7)
    return decode(model, cache, pools, tokens[PROMPT:])


@pytest.mark.parametrize("chunk", [1, 5, 16, 22, 23, 64])
def test_every_chunk_equals_dynamic_cache(model, tokens, chunk):
    pattern = attention_pattern(model.config)
    pools = make_pools(pattern, page_size=PAGE, seed=chunk)
    cache, plain = PagedCache(pattern, pools, torch.float32), DynamicCache(config=model.config)
    for part in chunks(tokens, chunk):
        assert torch.equal(
            paged_forward(model, cache, pools, part), plain_forward(model, plain, part)
        )
    assert cache.get_seq_length() == len(tokens)


def test_only_the_window_stays(model, tokens):
    cache, pools = prefilled(model, tokens[:PROMPT])
    assert HOLE not in cache.page_ids("full")
    kept = [i for i, page_id in enumerate(cache.page_ids("swa")) if page_id != HOLE]
    assert kept == list(range((PROMPT - WINDOW + 1) // PAGE, PROMPT // PAGE))
    assert len(pools["swa"].free_ids) == 64 - len(kept)


def test_restored_in_other_slots_equals_hot(model, tokens, saved, hot):
    assert torch.equal(warm(model, tokens, saved), hot)


def test_greedy_text_is_the_same(model, tokens, saved):
    def greedy(step, first):
        out = [first]
        for _ in range(16):
            out.append(int(step([out[-1]])[-1].argmax()))
        return out

    plain = DynamicCache(config=model.config)
    for part in chunks(tokens[:PROMPT], CHUNK):
        plain_forward(model, plain, part, 1)
    cache, pools = restore_pages(attention_pattern(model.config), saved, PROMPT, seed=9)
    assert greedy(lambda t: paged_forward(model, cache, pools, t), tokens[PROMPT]) == greedy(
        lambda t: plain_forward(model, plain, t), tokens[PROMPT]
    )


def test_single_shot_prefill_is_within_noise(model, tokens, hot):
    single = hot_run(model, tokens[:PROMPT], tokens[PROMPT:], PROMPT)
    assert (single - hot).abs().max() < NOISE
    log_p, log_q = (x.double().log_softmax(-1) for x in (hot, single))
    assert (log_p.exp() * (log_p - log_q)).sum(-1).max() < 1e-7


# Faults. Each changes one page of what was saved; all but the last must change the logits.


def altered(saved, pool, position, change):
    pages = list(saved[pool])
    pages[position] = change(pages[position])
    return {**saved, pool: pages}


def first_kept(pages):
    return next(i for i, page in enumerate(pages) if page is not None)


def assert_caught(logits, hot):
    assert not torch.equal(logits, hot)
    assert (logits - hot).abs().max() > NOISE


def test_zeroed_page_is_caught(model, tokens, saved, hot):
    for pool in ("full", "swa"):
        bad = altered(saved, pool, len(saved[pool]) - 1, torch.zeros_like)
        assert_caught(warm(model, tokens, bad), hot)


def test_window_one_page_short_is_caught(model, tokens, saved, hot):
    bad = altered(saved, "swa", first_kept(saved["swa"]), torch.zeros_like)
    assert_caught(warm(model, tokens, bad), hot)
    hole = altered(saved, "swa", first_kept(saved["swa"]), lambda page: None)
    with pytest.raises(PageIndexError, match=r"pool swa.*page 10 is absent"):
        warm(model, tokens, hole)


def test_k_and_v_exchanged_is_caught(model, tokens, saved, hot):
    bad = altered(saved, "full", 3, lambda page: page.flip(0))
    assert_caught(warm(model, tokens, bad), hot)


def test_page_of_another_prompt_is_caught(model, tokens, saved, hot):
    other = list(tokens[:PROMPT])
    other[12:16] = [(token + 1) % 512 for token in other[12:16]]
    foreign = save_pages(*prefilled(model, other))
    for pool, position in (("full", 3), ("swa", len(saved["swa"]) - 1)):
        bad = altered(saved, pool, position, lambda _, p=pool, i=position: foreign[p][i])
        assert not torch.equal(warm(model, tokens, bad), hot)


def test_never_written_slot_is_caught(model, tokens, saved, hot):
    bad = altered(saved, "full", 0, lambda page: torch.full_like(page, float("nan")))
    assert warm(model, tokens, bad).isnan().any()


def test_two_pages_swapped_show_in_bytes_only(model, tokens, saved, hot):
    pages = list(saved["full"])
    pages[2], pages[5] = pages[5], pages[2]
    bad = {**saved, "full": pages}
    # Attention ignores the order of its keys (their positions are in K): the text cannot tell.
    assert (warm(model, tokens, bad) - hot).abs().max() < NOISE
    assert not all(torch.equal(a, b) for a, b in zip(pages, saved["full"], strict=True))


# Misuse.


def test_bad_page_ids_change_nothing(model, tokens, saved):
    cache, _ = prefilled(model, tokens[:PROMPT])
    before = cache.num_tokens, cache.page_ids("full"), cache.page_ids("swa")
    with pytest.raises(PageIndexError, match="page id 64 at position 0"):
        cache.restore(PAGE, {"full": [64], "swa": [0]})
    with pytest.raises(PageIndexError, match=r"pool full: positions 0\.\.7"):
        cache.restore(2 * PAGE, {"full": [1], "swa": [0, 1]})
    assert before == (cache.num_tokens, cache.page_ids("full"), cache.page_ids("swa"))


def test_forward_without_pages_is_refused(model):
    pattern = attention_pattern(model.config)
    cache = PagedCache(pattern, make_pools(pattern), torch.float32)
    with pytest.raises(PageIndexError, match="0 pages in the table"):
        model(torch.tensor([[1, 2]]), past_key_values=cache)


def test_batch_and_pool_shapes_are_checked(model):
    pattern = attention_pattern(model.config)
    pools = make_pools(pattern)
    cache = PagedCache(pattern, pools, torch.float32)
    cache.append({name: pools[name].alloc(1) for name in pools})
    with pytest.raises(LayoutError, match=r"K of shape \(2, 2, 2, 16\)"):
        model(torch.tensor([[1, 2], [3, 4]]), past_key_values=cache)
    with pytest.raises(LayoutError, match="pool full has"):
        PagedCache(pattern, {"full": pools["swa"], "swa": pools["swa"]}, torch.float32)


class Config:
    def __init__(self, **values):
        self.__dict__.update(
            model_type="other", num_hidden_layers=2, num_attention_heads=4, hidden_size=32
        )
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kv_lora_rank": 512}, "kv_lora_rank"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"layer_types": ["full_attention"]}, "1 entries for 2 layers"),
        ({"layer_types": ["sliding_attention"] * 2, "sliding_window": 8}, "none of 2 layers"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding_window=None"),
        (
            {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 0},
            "sliding_window=0",
        ),
        ({"sliding_window": 8}, "which layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers=None"),
    ],
)
def test_unknown_attention_pattern_is_an_error(values, message):
    with pytest.raises(ModelError, match=message):
        attention_pattern(Config(**values))


def test_full_attention_model_has_no_swa_pool():
    pattern = attention_pattern(Config(num_key_value_heads=2))
    assert pattern.pools == ("full",)
    assert (pattern.full_layers, pattern.num_kv_heads, pattern.head_dim) == ((0, 1), 2, 8)
    assert pattern.window_tokens is None
