"""A serving loop in 25 lines, on a cache of three tiers, with a stand-in for the model.

    python examples/serving_loop.py

Runs the same prompt three times: cold, from L1, and in a new cache from L3.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping

import hicache_ext as hx

PAGE_SIZE, WINDOW, CHUNK_PAGES = 16, 64, 8
Forward = Callable[[list[int], Mapping[str, list[int]]], None]


# README: begin
def serve(cache: hx.HiCache, prompt: list[int], forward: Forward) -> int:
    """Prefills `prompt`; returns how many tokens of it were cached."""
    cache.prefetch(prompt)  # asks L3 for what L1 and L2 lack
    cache.drain()  # a server ticks once per step and serves others meanwhile
    match = cache.match(prompt[:-1])  # locks the longest prefix that L1 and L2 have
    if cache.load_back(match) is not None:  # L2 -> L1
        cache.drain()
    num_cached = match.num_device_tokens
    num_pages = (len(prompt) - 1) // PAGE_SIZE
    while (done := len(match.pages["full"])) < num_pages:
        num_new = min(CHUNK_PAGES, num_pages - done)
        new = cache.alloc({"full": num_new, "swa": num_new})  # evicts what is not locked
        if new is None:
            break  # L1 is full of locked pages: a server queues the request
        tokens = prompt[: (done + num_new) * PAGE_SIZE]
        pages = {name: match.pages[name] + new[name] for name in new}
        forward(tokens[done * PAGE_SIZE :], pages)  # writes K and V into the new pages
        cache.insert(match, tokens, pages)  # the tree owns them; L2 and L3 get copies
        cache.tick()
    cache.release(match)
    return num_cached


# README: end


def make_cache(store_root: str) -> hx.HiCache:
    """Two pools on each tier: "full" for 2 layers that see all, "swa" for 4 with a window."""
    shape = {"page_size": PAGE_SIZE, "num_heads": 2, "head_bytes": 128}
    device, host = {}, {}
    for name, num_layers in {"full": 2, "swa": 4}.items():
        spec = hx.LayoutSpec.make("layer_first", num_pages=64, num_layers=num_layers, **shape)
        device[name] = hx.DevicePool(spec, name=name)
        spec = hx.LayoutSpec.make("page_unified", num_pages=128, num_layers=num_layers, **shape)
        host[name] = hx.HostPool(spec, name=name)
    specs = {name: pool.spec for name, pool in host.items()}
    store = hx.SegmentStore.for_pools(
        store_root, specs, model="stand-in", revision="1", dtype="float32"
    )
    return hx.HiCache(hx.CacheConfig(PAGE_SIZE, WINDOW), device, host, store)


def main() -> list[int]:
    """Returns the cached tokens of the three runs."""
    prompt = list(range(500))

    def forward(tokens: list[int], pages: Mapping[str, list[int]]) -> None:
        print(f"  computes {len(tokens)} tokens")

    cached = []
    with tempfile.TemporaryDirectory() as root:
        cache = make_cache(root)
        for what in ("cold", "from L1"):
            print(what)
            cached.append(serve(cache, prompt, forward))
            cache.drain()
        print("a new cache, from L3")
        cached.append(serve(make_cache(root), prompt, forward))
    print("cached tokens:", cached)
    return cached


if __name__ == "__main__":
    main()
