"""Pages between a layer_first device pool and a page_unified host pool, and back."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hicache_ext.copy import copy_pages
from hicache_ext.errors import LifetimeError
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import DevicePool, HostPool, PageState

POISON = 0xEE
DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]


def random_shape(rng: random.Random) -> dict[str, int]:
    num_groups = rng.choice([1, 1, 2])
    return {
        "page_size": rng.choice([1, 3, 4, 16]),
        "num_layers": rng.randint(1, 5),
        "num_heads": num_groups * rng.randint(1, 3),
        "head_bytes": rng.choice([2, 6, 16, 128]),
        "num_kv": rng.choice([1, 2]),
        "num_groups": num_groups,
    }


def make_pools(rng: random.Random, device: str) -> tuple[DevicePool, HostPool]:
    shape = random_shape(rng)
    on_device = LayoutSpec.make("layer_first", num_pages=rng.randint(4, 24), **shape)
    on_host = LayoutSpec.make("page_unified", num_pages=rng.randint(4, 24), **shape)
    return DevicePool(on_device, name="full", device=device), HostPool(on_host, name="full")


def page_object(pool: DevicePool, page_id: int) -> bytes:
    """What a page_unified page must be, cut from the tensor by torch alone."""
    spec = pool.spec
    kv = pool.kv_view(torch.uint8)[:, :, page_id].cpu()  # [kv, layer, token, head, byte]
    heads = spec.num_heads // spec.num_groups
    grouped = kv.reshape(*kv.shape[:3], spec.num_groups, heads, spec.head_bytes)
    return grouped.permute(3, 1, 0, 2, 4, 5).contiguous().numpy().tobytes()


def fill(pool: DevicePool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    flat = pool.tensor()
    flat.copy_(torch.randint(256, flat.shape, generator=generator, dtype=torch.uint8))


def some_pages(rng: random.Random, device: DevicePool, host: HostPool) -> tuple[list, list]:
    """Equally many reserved pages of both pools in shuffled order; the ledger knows them."""
    num_pages = rng.randint(1, min(device.capacity, host.capacity) - 1)
    device_ids = rng.sample(device.alloc(device.capacity), num_pages)
    host_ids = rng.sample(host.alloc(host.capacity), num_pages)
    for pool, kept in ((device, device_ids), (host, host_ids)):
        pool.free(sorted(set(range(pool.capacity)) - set(kept)))
        pool.move(kept, PageState.IO)
    return device_ids, host_ids


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("executor", ["auto", "cpu_ref"])
@pytest.mark.parametrize("seed", range(12))
def test_round_trip_with_poisoned_neighbours(seed: int, executor: str, device: str) -> None:
    print(f"replay: seed {seed}")
    if device != "cpu" and executor == "cpu_ref":
        pytest.skip("cpu_ref reaches host memory only")
    rng = random.Random(seed)
    on_device, on_host = make_pools(rng, device)
    device_ids, host_ids = some_pages(rng, on_device, on_host)
    fill(on_device, seed)
    before = on_device.tensor().clone()
    on_host.poison(range(on_host.capacity), POISON)

    ticket = copy_pages(
        on_device.buffer, device_ids, on_host.buffer, host_ids, executor=executor, num_threads=2
    )
    assert ticket.result() == len(host_ids) * on_host.spec.page_bytes
    for device_id, host_id in zip(device_ids, host_ids, strict=True):
        assert bytes(on_host.page_view(host_id)) == page_object(on_device, device_id)
    for host_id in set(range(on_host.capacity)) - set(host_ids):
        assert set(on_host.page_view(host_id)) == {POISON}, f"neighbour {host_id} was written"
    assert torch.equal(on_device.tensor(), before), "the source was written"

    on_device.poison(device_ids)  # what is wrong now must come back from the host
    on_device.poison(set(range(on_device.capacity)) - set(device_ids), POISON)
    copy_pages(on_host.buffer, host_ids, on_device.buffer, device_ids, executor=executor).result()
    expected = DevicePool(on_device.spec, name="expected")
    expected.tensor().copy_(before)
    expected.poison(set(range(on_device.capacity)) - set(device_ids), POISON)
    assert torch.equal(on_device.tensor().cpu(), expected.tensor())
    for pool, ids in ((on_device, device_ids), (on_host, host_ids)):
        pool.move(ids, PageState.ATTACHED)
        pool.free(ids)
        pool.allocator.check_integrity()
        assert pool.num_free == pool.capacity


def test_a_missing_page_would_be_seen() -> None:
    """The control of the test above: one page left out, one page swapped."""
    rng = random.Random(1)
    on_device, on_host = make_pools(rng, "cpu")
    fill(on_device, 1)
    on_host.poison(range(on_host.capacity), POISON)
    copy_pages(on_device.buffer, [0, 2], on_host.buffer, [1, 0]).result()
    assert bytes(on_host.page_view(0)) != page_object(on_device, 0)
    assert bytes(on_host.page_view(2)) != page_object(on_device, 1)


def test_a_kept_buffer_keeps_the_host_pool_open() -> None:
    on_device, on_host = make_pools(random.Random(2), "cpu")
    buffer = on_host.buffer
    with pytest.raises(LifetimeError, match="1 views"):
        on_host.close()
    copy_pages(on_device.buffer, [0], buffer, [0]).result()
    del buffer
    on_host.close()
    with pytest.raises(LifetimeError, match="closed"):
        copy_pages(on_device.buffer, [0], on_host.buffer, [0])


def test_the_example_runs() -> None:
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root / "python"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(root / "examples/copy_pages.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "equal: True" in done.stdout and "page 5 -> 0" in done.stdout
