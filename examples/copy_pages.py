"""Pages out of a device pool into host memory and back: python examples/copy_pages.py"""

import torch

from hicache_ext.copy import copy_pages
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import DevicePool, HostPool, PageState

SHAPE = {"page_size": 16, "num_layers": 4, "num_heads": 2, "head_bytes": 128}  # 64 x bfloat16

device = DevicePool(
    LayoutSpec.make("layer_first", num_pages=8, **SHAPE),
    name="full",
    device="cuda:0" if torch.cuda.is_available() else "cpu",
)
host = HostPool(LayoutSpec.make("page_unified", num_pages=32, **SHAPE), name="full")
kv = device.kv_view(torch.bfloat16)  # [kv, layer, page, token, head, dim], no copy
kv.normal_()

used = [5, 2, 7]  # pages of one sequence, in order
kept = host.alloc(len(used), PageState.IO)
before = kv[:, :, used].clone()
num_bytes = copy_pages(device.buffer, used, host.buffer, kept).result()
for device_id, host_id in zip(used, kept, strict=True):
    print(f"page {device_id} -> {host_id}")
print(f"{num_bytes} bytes to host memory; {host.pinning}")

device.poison(used)  # somebody else wrote there meanwhile
copy_pages(host.buffer, kept, device.buffer, used).result()
print("equal:", torch.equal(kv[:, :, used], before))
host.move(kept, PageState.RESERVED)
host.free(kept)
host.close()
