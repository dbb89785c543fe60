"""One rank of test_sglang_ranks: python tests/sglang_worker.py RANK ROOT RENDEZVOUS OUT V1 ENDS.

Stores ten pages of KV, and windows of two pages that end at ENDS; then asks for all of it.
"""

import json
import sys

import sglang_pools as sg
import torch.distributed as dist

NUM_PAGES, WINDOW, TIMEOUT_S = 10, 2, 30.0
TOKENS = list(range(NUM_PAGES * sg.PAGE_SIZE))
HASHES = sg.page_hashes(NUM_PAGES)


def make_pools():
    return {
        "kv": sg.mha_pool("page_first", num_heads=1),
        "swa": sg.mha_pool("page_first", num_heads=2),
    }


def window(pool, end: int, keys: list[str]):
    """Page i of the span is page i of the pool."""
    return sg.PoolTransfer(
        name=sg.PoolName.SWA,
        keys=keys,
        host_indices=sg.slots_of(pool, list(range(end - WINDOW, end))),
        hit_policy=sg.PoolHitPolicy.TRAILING_PAGES,
    )


def write(made, pools, end: int) -> None:
    made.write_storage(
        sg.slots_of(pools["kv"], list(range(NUM_PAGES))),
        TOKENS,
        hash_value=HASHES,
        extra_pools=[window(pools["swa"], end, HASHES[end - WINDOW : end])],
    )
    acked = made.ack_backup_queue.get(timeout=TIMEOUT_S)
    assert acked.completed_tokens == len(TOKENS)


def prefetch(made, pools) -> dict:
    asked = window(pools["swa"], NUM_PAGES, ["placeholder"] * WINDOW)
    made.prefetch(sg.CacheRequestHandle("r", 0), TOKENS, extra_pools=[asked])
    operation = made.prefetch_hit_queue.get(timeout=TIMEOUT_S)
    end = operation.storage_hit_count // sg.PAGE_SIZE
    told = {"here": operation.pool_storage_result.restorable_prefix_pages, "agreed": end}
    operation.host_indices = sg.slots_of(pools["kv"], list(range(end)))
    asked.host_indices = sg.slots_of(pools["swa"], list(range(end - WINDOW, end)))
    made.prefetch_buffer.put(operation)
    while not (ack := made.ack_prefetch_queue.get(timeout=TIMEOUT_S)).completed_req:
        if ack.completed_tokens is not None:
            told["arrived"] = ack.completed_tokens // sg.PAGE_SIZE
        if ack.pool_hits is not None:
            told["window"] = ack.pool_hits[sg.PoolName.SWA]
    return told


def main() -> None:
    rank, (root, rendezvous, out, v1) = int(sys.argv[1]), sys.argv[2:6]
    ends = [int(end) for end in sys.argv[6:]]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    extra = {"root": root, "interface_v1": int(v1)}
    place = {"rank": rank, "num_ranks": 2, "group": dist.group.WORLD}
    source, target = make_pools(), make_pools()
    for pool in source.values():
        sg.fill(pool, seed=rank)
    with sg.controller(source, extra, **place) as made:
        for end in ends:
            write(made, source, end)
    dist.barrier()
    with sg.controller(target, extra, **place) as made:
        told = prefetch(made, target)
    end = told["agreed"]
    wanted = [("kv", page) for page in range(end)] + [("swa", end - 1 - i) for i in range(WINDOW)]
    told["wrong"] = [
        [name, page]
        for name, page in wanted
        if sg.page_bytes(target[name], page) != sg.page_bytes(source[name], page)
    ]
    with open(out, "w") as file:
        json.dump(told, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
