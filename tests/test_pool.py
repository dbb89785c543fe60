"""DevicePool and HostPool: views, poison, refusals, and what close() does."""

import gc

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda

from hicache_ext.copy import copy_pages, gather_pages
from hicache_ext.errors import CapacityError, CudaError, LayoutError, LifetimeError, PageIndexError
from hicache_ext.host_limits import HostLimit
from hicache_ext.layout import LAYOUT_NAMES, LayoutSpec
from hicache_ext.pool import DevicePool, HostPool, PagePool, PageState, PinMode
from hicache_ext.tier import Tier

PAGES = 6


def spec_of(name: str, *, num_pages: int = PAGES, num_groups: int = 1) -> LayoutSpec:
    return LayoutSpec.make(
        name,
        num_pages=num_pages,
        page_size=4,
        num_layers=3,
        num_heads=2,
        head_bytes=16,
        num_groups=num_groups,
    )


def pools(spec: LayoutSpec) -> list[PagePool]:
    return [DevicePool(spec, name="full"), HostPool(spec, name="full")]


def raw(pool: PagePool) -> np.ndarray:
    """The pool's bytes through its buffer, no copy."""
    array = pool.buffer.array
    return array.numpy() if isinstance(array, torch.Tensor) else array


# --- both tiers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUT_NAMES)
def test_a_new_pool_is_zero_and_all_free(name: str) -> None:
    for pool, tier in zip(pools(spec_of(name)), (Tier.DEVICE, Tier.HOST), strict=True):
        assert pool.tier is tier and pool.name == "full" and pool.spec == spec_of(name)
        assert raw(pool).nbytes == pool.spec.num_bytes and not raw(pool).any()
        assert (pool.num_free, pool.capacity) == (PAGES, PAGES)
        ids = pool.alloc(2)
        pool.move(ids, PageState.ATTACHED)
        pool.free(ids)
        assert pool.alloc(PAGES + 1) is None
        pool.allocator.check_integrity()
        pool.close()


def test_page_view_is_the_page_itself() -> None:
    for pool in pools(spec_of("page_unified")):
        page_bytes = pool.spec.page_bytes
        for page_id in range(PAGES):
            view = pool.page_view(page_id)
            assert (view.format, view.ndim, view.readonly) == ("B", 1, False)
            assert view.nbytes == page_bytes
            view[:] = bytes([page_id + 1]) * page_bytes
        expected = np.repeat(np.arange(1, PAGES + 1, dtype=np.uint8), page_bytes)
        assert (raw(pool) == expected).all()


@pytest.mark.parametrize("name", ["layer_first", "page_first"])
def test_no_page_view_of_scattered_pages(name: str) -> None:
    for pool in pools(spec_of(name)):
        with pytest.raises(LayoutError, match=name):
            pool.page_view(0)


@pytest.mark.parametrize("page_id", [-1, PAGES, 1 << 40])
def test_foreign_ids_are_refused_and_nothing_is_written(page_id: int) -> None:
    for pool in pools(spec_of("page_unified")):
        with pytest.raises(PageIndexError, match=rf"'full'.*page {page_id} is not in 0\.\.5"):
            pool.page_view(page_id)
        with pytest.raises(PageIndexError, match=rf"position 1: page {page_id}"):
            pool.poison([0, page_id])
        assert not raw(pool).any()


@pytest.mark.parametrize("name", LAYOUT_NAMES)
@pytest.mark.parametrize("num_groups", [1, 2])
def test_poison_writes_every_byte_of_its_pages_and_no_other(name: str, num_groups: int) -> None:
    for pool in pools(spec_of(name, num_groups=num_groups)):
        pool.poison([1, 4], 0xAB)
        out = np.empty(PAGES * pool.spec.page_bytes, np.uint8)
        gather_pages(pool.buffer, range(PAGES), out).result()
        pages = out.reshape(PAGES, -1)
        assert (pages[[1, 4]] == 0xAB).all() and not pages[[0, 2, 3, 5]].any()
        assert (raw(pool) == 0xAB).sum() == 2 * pool.spec.page_bytes
        pool.poison(range(PAGES))
        assert (raw(pool) == 0xFF).all()


def test_use_after_close_is_typed() -> None:
    for pool in pools(spec_of("page_unified")):
        ids = pool.alloc(1)
        pool.close()
        pool.close()
        assert pool.is_closed
        calls = [
            lambda pool: pool.buffer,
            lambda pool: pool.alloc(1),
            lambda pool: pool.free([0]),
            lambda pool: pool.move([0], PageState.IO),
            lambda pool: pool.page_view(0),
            lambda pool: pool.poison([0]),
        ]
        for call in calls:
            with pytest.raises(LifetimeError, match=r"'full'.*closed"):
                call(pool)
        assert pool.allocator.state(ids[0]) is PageState.RESERVED
        pool.allocator.check_integrity()  # the ledger stays readable


def test_no_close_while_pages_are_in_io() -> None:
    for pool in pools(spec_of("page_unified")):
        ids = pool.alloc(3, PageState.IO)
        with pytest.raises(LifetimeError, match=r"3 pages are in I/O: \[0, 1, 2\]"):
            pool.close()
        pool.page_view(0)[:4] = b"fine"
        pool.move(ids, PageState.RESERVED)
        pool.close()


# --- host ----------------------------------------------------------------------------------------


def test_host_close_refuses_while_views_live() -> None:
    pool = HostPool(spec_of("page_unified"), name="swa")
    view, other, buffer = pool.page_view(2), pool.page_view(3), pool.buffer
    for alive in (3, 2, 1):
        with pytest.raises(LifetimeError, match=f"'swa'.*{alive} views"):
            pool.close()
        view[:1] = b"x"  # neither a crash nor somebody else's memory
        assert not pool.is_closed and raw(pool)[2 * pool.spec.page_bytes] == ord("x")
        if alive == 3:
            other.release()
        elif alive == 2:
            del buffer
    view.release()
    pool.close()


def test_views_outlive_a_dropped_host_pool() -> None:
    pool = HostPool(spec_of("page_unified"), name="full")
    pool.page_view(5)[:] = b"\x07" * pool.spec.page_bytes
    view, array = pool.page_view(5), pool.buffer.array
    del pool
    gc.collect()
    assert bytes(view) == b"\x07" * len(view) and array.sum() == 7 * len(view)


def test_host_pool_is_page_aligned_for_direct_io() -> None:
    pool = HostPool(spec_of("page_unified"), name="full")
    assert pool.buffer.address % 4096 == 0 and pool.buffer.device == "cpu"


def test_unpinned_pool_says_why() -> None:
    pool = HostPool(spec_of("page_unified"), name="full", pin=PinMode.NEVER)
    assert not pool.is_pinned and pool.regions == [] and "NEVER" in pool.pinning


def test_pinned_pool_registers_whole_pages_and_unregisters() -> None:
    fake = FakeCuda()
    pool = HostPool(spec_of("page_unified"), name="full", pin_api=fake.api)
    assert pool.is_pinned and pool.pinning == "pinned in 1 regions"
    ((address, num_bytes),) = pool.regions
    assert address == pool.buffer.address and num_bytes >= pool.spec.num_bytes
    pool.close()
    assert not fake.registered and not pool.is_pinned


def test_pages_never_lie_in_two_registrations() -> None:
    spec = spec_of("page_unified", num_pages=1000)  # of 768 bytes
    pool = HostPool(spec, name="full", pin_api=(fake := FakeCuda({0: 2, 1: 2})).api)
    assert len(pool.regions) == len(fake.registered) == 5
    assert all((at - pool.buffer.address) % spec.stride_page == 0 for at, _ in pool.regions)


def test_failed_pinning_leaves_nothing_behind() -> None:
    fake = FakeCuda(dict.fromkeys(range(9), 2))
    with pytest.raises(CudaError, match="cannot pin"):
        HostPool(spec_of("page_unified"), name="full", pin_api=fake.api)
    assert not fake.registered and fake.last_error == 0


def test_required_pinning_without_a_device() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(CudaError, match="'full': not pinned"):
        HostPool(spec_of("page_unified"), name="full", pin=PinMode.REQUIRED)


@pytest.mark.parametrize("kind", ["host", "device"])
def test_a_pool_that_does_not_fit_is_refused_with_numbers(kind: str, monkeypatch) -> None:
    limits = [HostLimit("memory.max of a test", 4096, 4000)]
    monkeypatch.setattr("hicache_ext.host_limits.host_limits", lambda: limits)
    monkeypatch.setattr("hicache_ext.host_placement.host_limits", lambda root: limits)
    spec = spec_of("page_unified")
    with pytest.raises(CapacityError, match=rf"'full'.*{spec.num_bytes}.*leaves 96 .*4096.*4000"):
        (HostPool if kind == "host" else DevicePool)(spec, name="full")


def test_a_terabyte_is_refused_at_once() -> None:
    """The ledger of so many small pages alone would not fit: the refusal comes first."""
    num_pages = (1 << 50) // spec_of("page_unified").page_bytes
    for kind in (HostPool, DevicePool):
        with pytest.raises(CapacityError, match=r"'full'.*needs 1125899906"):
            kind(spec_of("page_unified", num_pages=num_pages), name="full")


# --- device --------------------------------------------------------------------------------------


def test_kv_view_of_layer_first_is_the_memory() -> None:
    spec = spec_of("layer_first")
    pool = DevicePool(spec, name="full")
    kv = pool.kv_view(torch.bfloat16)
    assert kv.shape == (2, 3, PAGES, 4, 2, 8) and kv.is_contiguous()
    assert kv.data_ptr() == pool.buffer.address
    kv[1, 2, 4] = torch.arange(64, dtype=torch.bfloat16).reshape(4, 2, 8)
    out = torch.zeros(1, spec.num_layers, 2, 4, 2, 8, dtype=torch.bfloat16)
    gather_pages(pool.buffer, [4], out).result()
    assert torch.equal(out[0, 2, 1], kv[1, 2, 4]) and out[0, 2, 1].sum() == 63 * 32
    assert not out[0, :2].any() and not out[0, 2, 0].any()


@pytest.mark.parametrize("name", LAYOUT_NAMES)
def test_kv_view_agrees_with_copies_in_every_layout(name: str) -> None:
    pool = DevicePool(spec_of(name), name="full")
    kv = pool.kv_view(torch.int32)
    values = torch.arange(kv.numel(), dtype=torch.int32).reshape(kv.shape)
    kv.copy_(values)
    plain = DevicePool(spec_of("layer_first"), name="full")
    copy_pages(pool.buffer, range(PAGES), plain.buffer, range(PAGES)).result()
    assert torch.equal(plain.kv_view(torch.int32), values)


def test_kv_view_that_cannot_be_is_refused() -> None:
    odd = LayoutSpec.make(
        "layer_first", num_pages=1, page_size=1, num_layers=1, num_heads=1, head_bytes=3
    )
    with pytest.raises(LayoutError, match=r"head_bytes=3.*bfloat16"):
        DevicePool(odd, name="full").kv_view(torch.bfloat16)
    with pytest.raises(LayoutError, match=r"6 bytes are no multiple of torch\.float32"):
        DevicePool(odd, name="full").tensor(torch.float32)
    grouped = DevicePool(spec_of("page_unified", num_groups=2), name="full")
    with pytest.raises(LayoutError, match="2 head groups"):
        grouped.kv_view(torch.float32)


def test_tensor_is_a_view_and_outlives_close() -> None:
    pool = DevicePool(spec_of("page_first"), name="full")
    flat = pool.tensor(torch.int64)
    flat[0] = -1
    assert raw(pool)[:8].tolist() == [255] * 8
    pool.close()
    flat[1] = 5  # torch keeps what a tensor looks at
    assert flat[:2].tolist() == [-1, 5]


@pytest.mark.parametrize(
    ("device", "error"), [("cuda:99", CudaError), ("meta", LayoutError), ("gpu?", LayoutError)]
)
def test_no_such_device(device: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"pool 'full' on '{device[:3]}"):
        DevicePool(spec_of("layer_first"), name="full", device=device)
