"""One rank of test_tensor_parallel: python tests/tp_worker.py RANK SIZE KV_HEADS RENDEZVOUS OUT."""

import sys

import torch
import torch.distributed as dist
from paged_runs import chunks, make_pools, paged_forward

from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.models import small_config, small_model
from hicache_ext.integrations.tensor_parallel import shard_model, shard_pattern
from hicache_ext.integrations.transformers import PagedCache

TOKENS = [(7 * i * i + 3) % 512 for i in range(48)]
WINDOW, CHUNK = 22, 16


def run(model, pattern, seed):
    pools = make_pools(pattern, seed=seed)
    cache = PagedCache(pattern, pools, torch.float32)
    logits = torch.cat([paged_forward(model, cache, pools, part) for part in chunks(TOKENS, CHUNK)])
    last = {name: pools[name].read(cache.page_ids(name)[-1]) for name in pools}
    return {"logits": logits, "pages": last}


def main():
    rank, size, num_kv_heads = (int(arg) for arg in sys.argv[1:4])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[4]}", rank=rank, world_size=size)
    model = small_model(small_config(window=WINDOW, num_kv_heads=num_kv_heads))
    shard = shard_model(model, rank, size)
    result = run(model, shard_pattern(attention_pattern(model.config), shard), seed=rank)
    torch.save({**result, "label": shard.label}, sys.argv[5])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
