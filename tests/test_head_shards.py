"""Pages written by ranks of one tensor-parallel size and read by those of another, bit for bit."""

import random
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from hicache_ext import LayoutSpec
from hicache_ext.errors import LayoutError, StorageError
from hicache_ext.storage import (
    HeadShards,
    Limit,
    MemoryStore,
    Piece,
    PieceStore,
    SegmentStore,
    StoreNamespace,
    store_by_heads,
)
from hicache_ext.storage.pieces import MAX_PIECES

SIZES = (1, 2, 4, 8)
NUM_HEADS = 16
NUM_PAGES = 5
KEYS = [random.Random(i).randbytes(32) for i in range(NUM_PAGES)]
# Both carry the group axis where the bytes of one share lie together, once or for K and V apart.
LAYOUTS = ("page_unified", "page,kv,group,head,token,layer")


def spec_of(layout: str, num_ranks: int, num_shards: int = 8) -> LayoutSpec:
    return LayoutSpec.make(
        layout,
        num_pages=NUM_PAGES,
        page_size=4,
        num_layers=3,
        num_heads=NUM_HEADS // num_ranks,
        head_bytes=10,
        num_groups=num_shards // num_ranks,
    )


def open_rank(root: Path, layout: str, rank: int, num_ranks: int, **names: str) -> PieceStore:
    names = {"model": "llama", "revision": "r1", "dtype": "bfloat16", **names}
    shards = HeadShards.of_rank(rank, num_ranks, num_shards=8)
    make = partial(SegmentStore, root)
    return store_by_heads(make, {"full": spec_of(layout, num_ranks)}, shards, **names)


def head_byte(page: int, layer: int, kv: int, token: int, head: int, byte: int) -> int:
    """What the model puts there: of the absolute head, whatever the rank."""
    return (page * 101 + layer * 59 + kv * 31 + token * 17 + head * 7 + byte) % 251


def page_of(spec: LayoutSpec, page: int, first_head: int) -> bytes:
    """The page object as a rank holds it, written element by element from the strides."""
    data = bytearray(spec.page_bytes)
    heads_per_group = spec.num_heads // spec.num_groups
    axes = (spec.num_layers, spec.num_kv, spec.num_groups, spec.page_size, heads_per_group)
    for layer, kv, group, token, head in product(*map(range, axes)):
        at = layer * spec.stride_layer + kv * spec.stride_kv + group * spec.stride_group
        at += token * spec.stride_token + head * spec.stride_head
        absolute = first_head + group * heads_per_group + head
        for byte in range(spec.head_bytes):
            data[at + byte] = head_byte(page, layer, kv, token, absolute, byte)
    return bytes(data)


def pages_of(layout: str, rank: int, num_ranks: int) -> list[bytes]:
    spec = spec_of(layout, num_ranks)
    return [page_of(spec, page, rank * spec.num_heads) for page in range(NUM_PAGES)]


def read(store: PieceStore, keys=KEYS) -> list[bytes | None]:
    buffers = [bytearray(b"\xa5" * store._page_bytes["full"]) for _ in keys]
    found = store.read_into("full", keys, [memoryview(buffer) for buffer in buffers])
    return [bytes(b) if ok else None for ok, b in zip(found, buffers, strict=True)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("writers", SIZES)
def test_every_size_reads_what_another_wrote(tmp_path: Path, layout: str, writers: int) -> None:
    for rank in range(writers):
        store = open_rank(tmp_path, layout, rank, writers)
        pages = [memoryview(page) for page in pages_of(layout, rank, writers)]
        assert store.write_from("full", KEYS, pages) == [True] * NUM_PAGES
        store.close()
    for readers in SIZES:
        for rank in range(readers):
            store = open_rank(tmp_path, layout, rank, readers)
            assert store.exists("full", KEYS) == [True] * NUM_PAGES
            assert read(store) == pages_of(layout, rank, readers), f"{writers} -> {readers}"
            store.close()


def test_a_share_that_nobody_wrote_is_a_miss(tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        store = open_rank(tmp_path, "page_unified", rank, 4)
        store.write_from("full", KEYS, [memoryview(p) for p in pages_of("page_unified", rank, 4)])
        store.close()
    found = {}
    for rank in range(2):
        store = open_rank(tmp_path, "page_unified", rank, 2)
        found[rank] = (store.exists("full", KEYS)[0], read(store)[0] is not None)
        store.close()
    assert found == {0: (True, True), 1: (False, False)}


@pytest.mark.parametrize(
    "other",
    [{"model": "mistral"}, {"revision": "r2"}, {"dtype": "float16"}, {"layout": LAYOUTS[1]}],
)
def test_what_changes_the_bytes_is_a_miss(tmp_path: Path, other: dict[str, str]) -> None:
    store = open_rank(tmp_path, LAYOUTS[0], 0, 1)
    store.write_from("full", KEYS, [memoryview(page) for page in pages_of(LAYOUTS[0], 0, 1)])
    store.close()
    layout = other.pop("layout", LAYOUTS[0])
    store = open_rank(tmp_path, layout, 0, 1, **other)
    assert store.exists("full", KEYS) == [False] * NUM_PAGES and read(store) == [None] * NUM_PAGES
    store.close()


def test_ranks_that_hold_the_same_head_share_it() -> None:
    held = [HeadShards.of_rank(rank, 8, num_kv_heads=2) for rank in range(8)]
    assert [shards.names for shards in held] == [["0/2"]] * 4 + [["1/2"]] * 4
    assert [shards.is_writer for shards in held] == [True, False, False, False] * 2
    # The least common multiple is cut down to the heads there are.
    assert HeadShards.of_rank(0, 1, num_shards=8, num_kv_heads=2).names == ["0/2", "1/2"]
    assert HeadShards.of_rank(1, 2, num_shards=8, num_kv_heads=2).names == ["1/2"]
    assert HeadShards.of_rank(5, 8, num_shards=8, num_kv_heads=2) == held[5]


def test_what_several_ranks_hold_is_written_once_and_read_by_all(tmp_path: Path) -> None:
    """Two KV heads on eight ranks, four of which hold the same one."""
    spec = LayoutSpec.make(
        "page_unified", num_pages=1, page_size=4, num_layers=3, num_heads=1, head_bytes=10
    )
    names = {"model": "llama", "revision": "r1", "dtype": "bfloat16"}
    stores = [
        store_by_heads(
            partial(SegmentStore, tmp_path),
            {"full": spec},
            HeadShards.of_rank(rank, 8, num_kv_heads=2),
            **names,
        )
        for rank in range(8)
    ]
    for rank, store in reversed(list(enumerate(stores))):
        page = page_of(spec, 0, first_head=rank // 4)
        assert store.write_from("full", KEYS[:1], [memoryview(page)]) == [True]
        assert store.write_from("unknown", KEYS[:1], [memoryview(page)]) == [False]
        with pytest.raises(StorageError, match="1 keys but 0 pages"):
            store.write_from("full", KEYS[:1], [])
    assert [s.stats()["num_written_pages"] for s in stores] == [1, 0, 0, 0, 1, 0, 0, 0]
    for rank, store in enumerate(stores):
        assert read(store, KEYS[:1]) == [page_of(spec, 0, first_head=rank // 4)]
        store.close()


def test_shares_tile_the_heads_in_every_size() -> None:
    for num_ranks, num_shards, num_kv_heads in product(SIZES, (0, *SIZES), (0, 1, 2, 8, 16)):
        if num_shards and max(num_ranks, num_shards) % min(num_ranks, num_shards):
            continue
        held = [
            HeadShards.of_rank(r, num_ranks, num_shards=num_shards, num_kv_heads=num_kv_heads)
            for r in range(num_ranks)
        ]
        written = [name for shards in held if shards.is_writer for name in shards.names]
        assert written == [f"{i}/{held[0].total}" for i in range(held[0].total)]


@pytest.mark.parametrize(
    "args",
    [
        {"rank": 2, "num_ranks": 2},
        {"rank": -1, "num_ranks": 2},
        {"rank": 0, "num_ranks": 0},
        {"rank": 0, "num_ranks": 4, "num_shards": 6},
        {"rank": 0, "num_ranks": 4, "num_shards": -4},
        {"rank": 0, "num_ranks": 4, "num_kv_heads": 6},
        {"rank": 0, "num_ranks": 4, "num_kv_heads": -8},
    ],
)
def test_shares_that_do_not_divide_are_refused(args: dict[str, int]) -> None:
    with pytest.raises(LayoutError, match=f"num_ranks={args['num_ranks']}"):
        HeadShards.of_rank(**args)


def test_layouts_that_cannot_be_cut_are_refused() -> None:
    def cut(spec: LayoutSpec, num_ranks: int) -> None:
        shards = HeadShards.of_rank(0, num_ranks, num_shards=8)
        store_by_heads(
            lambda namespaces, sizes: MemoryStore(sizes),
            {"full": spec},
            shards,
            model="m",
            revision="r",
            dtype="b",
        )

    with pytest.raises(LayoutError, match=r"num_groups=4.*8 of 8"):
        cut(spec_of("page_unified", 2), 1)
    with pytest.raises(LayoutError, match="not contiguous"):
        cut(spec_of("page_head", 1), 1)
    with pytest.raises(LayoutError, match="12 runs"):
        cut(spec_of("page,layer,token,group,kv,head", 1), 1)


def in_pieces(*cuts: tuple[int, int]) -> PieceStore:
    pieces = [Piece(f"p{i}", offset, num_bytes) for i, (offset, num_bytes) in enumerate(cuts)]
    return PieceStore(MemoryStore({p.pool: max(1, p.num_bytes) for p in pieces}), {"full": pieces})


def test_pieces_that_leave_or_share_bytes_are_refused() -> None:
    for cuts in ([(0, 4), (5, 4)], [(0, 4), (3, 4)], [(1, 4)], [(0, 4), (4, 0)], []):
        with pytest.raises(StorageError, match="full"):
            in_pieces(*cuts)
    with pytest.raises(StorageError, match=f"{MAX_PIECES + 1} pieces"):
        in_pieces(*[(i, 1) for i in range(MAX_PIECES + 1)])


def test_a_page_is_there_if_all_pieces_are() -> None:
    store = in_pieces((2, 3), (0, 2))
    key, other = KEYS[:2]
    assert store.write_from("full", [key], [memoryview(b"abcde")]) == [True]
    page = bytearray(5)
    assert store.read_into("full", [key, other], [memoryview(page), memoryview(bytearray(5))]) == [
        True,
        False,
    ]
    assert bytes(page) == b"abcde"
    parts = [bytearray(3), bytearray(2)]
    assert store.read_pieces("full", [key], [[memoryview(part)] for part in parts]) == [True]
    assert [bytes(part) for part in parts] == [b"cde", b"ab"]
    assert store._inner.remove("p1", [key]) == 1
    assert store.exists("full", [key]) == [False]
    assert store.read_into("full", [key], [memoryview(page)]) == [False]
    assert store.remove("full", [key]) == 0 and store._inner.exists("p0", [key]) == [False]


def test_a_page_of_which_a_piece_is_refused_is_refused() -> None:
    store = PieceStore(MemoryStore({"p0": 2}), {"full": [Piece("p0", 0, 2), Piece("p1", 2, 2)]})
    assert store.write_from("full", KEYS[:1], [memoryview(b"abcd")]) == [False]
    assert store._inner.exists("p0", KEYS[:1]) == [True]
    assert store.exists("full", KEYS[:1]) == [False]


def test_pieces_store_keeps_the_rules_of_a_page_store() -> None:
    store = in_pieces((0, 2), (2, 2))
    assert store.exists("full", []) == store.exists("unknown", []) == []
    assert store.exists("unknown", KEYS[:2]) == [False, False]
    assert store.write_from("unknown", KEYS[:1], [memoryview(b"abcd")]) == [False]
    assert store.remove("unknown", KEYS) == 0
    with pytest.raises(StorageError, match="4 contiguous"):
        store.write_from("full", KEYS[:1], [memoryview(b"abc")])
    with pytest.raises(StorageError, match="31 bytes"):
        store.exists("full", [b"k" * 31])
    pages = [memoryview(b"abcd")] * 2
    assert store.write_from("full", KEYS[:1] * 2, pages) == [True, True]
    assert store.write_from("full", KEYS[1:2], pages[:1], Limit(0.0)) == [False]
    assert store.remove("full", KEYS[:1] * 2) == 1
    assert not store.capabilities.atomic_batch
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.exists("full", KEYS[:1])


def test_a_digest_tells_every_field_apart() -> None:
    base = {"model": "m", "revision": "r", "dtype": "d", "layout": {}, "page_size": 1, "shard": "s"}
    changed = {"model": "", "revision": "", "dtype": "", "layout": {"a": 1}, "page_size": 2}
    digests = [StoreNamespace(**base).digest()]
    digests += [StoreNamespace(**{**base, name: v}).digest() for name, v in changed.items()]
    digests.append(StoreNamespace(**{**base, "shard": "0/2"}).digest())
    assert len(set(digests)) == 7
