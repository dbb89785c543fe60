"""Helpers of the paged-cache tests: a stand-in pool, and runs over paged and plain caches."""

import random
from types import SimpleNamespace

import torch
from transformers import DynamicCache

from hicache_ext.integrations.transformers import HOLE, PagedCache


class StandInPool:
    """Pages in a plain tensor, NaN where nothing was written; ids handed out in shuffled order."""

    def __init__(self, pattern, name, *, num_pages, page_size, seed):
        layers = len(pattern.layers(name))
        shape = (2, layers, num_pages, page_size, pattern.num_kv_heads, pattern.head_dim)
        self.data = torch.full(shape, float("nan"))
        self.spec = SimpleNamespace(num_pages=num_pages, page_size=page_size)
        self.free_ids = list(range(num_pages))
        random.Random(seed).shuffle(self.free_ids)

    def kv_view(self, dtype):
        assert dtype == self.data.dtype
        return self.data

    def alloc(self, num):
        assert num <= len(self.free_ids), f"pool of {self.spec.num_pages} pages is full"
        ids, self.free_ids = self.free_ids[:num], self.free_ids[num:]
        return ids

    def free(self, ids):
        self.data[:, :, ids] = float("nan")
        self.free_ids += ids

    def read(self, page_id):
        return self.data[:, :, page_id].clone()

    def write(self, page_id, page):
        self.data[:, :, page_id] = page


def make_pools(pattern, *, num_pages=64, page_size=4, seed=0):
    return {
        name: StandInPool(pattern, name, num_pages=num_pages, page_size=page_size, seed=seed + i)
        for i, name in enumerate(pattern.pools)
    }


@torch.inference_mode()
def paged_forward(model, cache, pools, token_ids, logits_to_keep=0):
    """One chunk through `cache`: allocate, run, give back what left the window."""
    missing = cache.num_missing_pages(len(token_ids))
    cache.append({name: pools[name].alloc(num) for name, num in missing.items()})
    out = model(torch.tensor([token_ids]), past_key_values=cache, logits_to_keep=logits_to_keep)
    for name, ids in cache.trim().items():
        pools[name].free(ids)
    return out.logits[0]


@torch.inference_mode()
def plain_forward(model, cache, token_ids, logits_to_keep=0):
    out = model(torch.tensor([token_ids]), past_key_values=cache, logits_to_keep=logits_to_keep)
    return out.logits[0]


def chunks(tokens, size):
    return [tokens[i : i + size] for i in range(0, len(tokens), size)]


def hot_run(model, prompt, suffix, chunk):
    """Reference: the same chunk boundaries, cache kept in memory by transformers itself."""
    cache = DynamicCache(config=model.config)
    for part in chunks(prompt, chunk):
        plain_forward(model, cache, part, 1)
    return torch.cat([plain_forward(model, cache, [token]) for token in suffix])


def save_pages(cache, pools):
    """The bytes of a sequence's pages: pool -> list of page tensors, None for a hole."""
    return {
        name: [None if i == HOLE else pools[name].read(i) for i in cache.page_ids(name)]
        for name in pools
    }


def restore_pages(pattern, saved, num_tokens, *, seed, page_size=4, num_pages=64):
    """Other pools (other physical slots), with the saved pages in them, and a cache over them."""
    pools = make_pools(pattern, num_pages=num_pages, page_size=page_size, seed=seed)
    tables = {}
    for name, pages in saved.items():
        tables[name] = [HOLE if page is None else pools[name].alloc(1)[0] for page in pages]
        for page_id, page in zip(tables[name], pages, strict=True):
            if page is not None:
                pools[name].write(page_id, page)
    cache = PagedCache(pattern, pools, torch.float32)
    cache.restore(num_tokens, tables)
    return cache, pools
