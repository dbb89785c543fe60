"""SegmentStore: what is on disk, and what a damaged page or index becomes."""

import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from store_tools import (
    BASE,
    HEADER_BYTES,
    PAGE_BYTES,
    RECORD_BYTES,
    SLOT_BYTES,
    files,
    flip,
    get,
    get_all,
    key_of,
    only,
    open_store,
    overwrite,
    page_of,
    put,
    slot_of,
)

from hicache_ext.storage import SegmentStore


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def test_a_fresh_store_finds_everything(root: Path) -> None:
    with_pages = open_store(root)
    assert put(with_pages, range(20)) == [True] * 20
    with_pages.close()
    store = open_store(root)
    assert store.stats()["num_pages"] == 20
    assert get_all(store, range(20)) == [page_of(i) for i in range(20)]
    assert store.stats()["num_corrupt_pages"] == 0


def test_files_are_private_and_a_batch_lies_in_adjacent_slots(root: Path) -> None:
    store = open_store(root)
    put(store, [3, 1, 2])
    put(store, [1, 5])
    pages, index = only(root, "pages"), only(root, "index")
    for folder in (root, pages.parent.parent, pages.parent):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in pages.parent.iterdir())
    content = b"".join(page_of(i) + bytes(SLOT_BYTES - PAGE_BYTES) for i in (3, 1, 2, 5))
    assert pages.read_bytes()[: 4 * SLOT_BYTES] == content
    assert pages.stat().st_size == 1 << 20, "room is taken ahead"
    assert index.stat().st_size == HEADER_BYTES + 4 * RECORD_BYTES
    assert {path.name for path in pages.parent.iterdir()} == {"lock", "index", "00000000.pages"}


def test_known_answer_pins_the_format(root: Path) -> None:
    """The bytes of an index, from a shard, an age and a page; only these two numbers are random."""
    from xxhash import xxh3_128_digest

    store = SegmentStore(root, {"full": BASE}, {"full": 16})
    key = bytes(range(32))
    store.write_from("full", [key], [memoryview(bytes(16))])
    assert store.remove("full", [key]) == 1
    index = only(root, "index")
    assert index.parent.parent.name == "full-9043b3f7b143aa42ce2c3d53"
    shard = int(index.parent.name.removeprefix("shard-"), 16)
    content = index.read_bytes()
    owner = hashlib.sha256(f"full/{BASE.digest()}".encode()).digest()
    header = struct.pack("<8sIIQQQQ32s", b"HICSHARD", 3, 80, 16, 1 << 30, shard, 1, owner)
    header += xxh3_128_digest(header)[:-9:-1]  # its low half, little endian
    assert content[:HEADER_BYTES] == header
    seed = int.from_bytes(header[-8:], "little")
    page, tombstone = content[HEADER_BYTES : HEADER_BYTES + 80], content[HEADER_BYTES + 80 :]
    checksum = bytes.fromhex("96dfbbad3673e19316bf228c65ba1a1a")
    for position, (record, kind, told) in enumerate(
        ((page, 1, checksum), (tombstone, 2, bytes(16)))
    ):
        assert record[:16] == struct.pack("<IIQ", kind, 0, shard)
        assert record[16:24] == page[16:24], "another generation"
        assert record[24:72] == key + told
        assert record[72:] == xxh3_128_digest(record[:72], seed=seed + position)[:-9:-1]
    assert only(root, "pages").read_bytes()[:4096] == bytes(4096)


CHANGES = [
    {"model": "other"},
    {"revision": "r2"},
    {"dtype": "bfloat16"},
    {"layout": {"num_layers": 18, "num_kv": 1}},
    {"page_size": 32},
    {"shard": "1/2"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_another_namespace_is_a_miss_and_both_live_on(root: Path, change: dict) -> None:
    store, other = open_store(root), open_store(root, replace(BASE, **change))
    put(store, [1])
    assert other.exists("full", [key_of(1)]) == [False]
    assert get(other, 1) is None
    other.clear()
    assert get(store, 1) == page_of(1)


def test_layout_order_does_not_change_the_digest() -> None:
    layout = dict(reversed(list(BASE.layout.items())))
    assert replace(BASE, layout=layout).digest() == BASE.digest()


def damage(root: Path, how: str, i: int) -> None:
    """Of the last page in its file."""
    path, offset = slot_of(root, i)
    if how == "truncated":
        os.truncate(path, offset + PAGE_BYTES - 1)
    elif how == "missing":
        os.truncate(path, offset)
    elif how == "zeros":
        overwrite(path, offset, bytes(PAGE_BYTES))
    elif how == "another's":
        overwrite(path, offset, page_of(0))
    else:
        flip(path, offset + PAGE_BYTES - 1, 7)


@pytest.mark.parametrize("how", ["truncated", "missing", "zeros", "another's", "flipped"])
@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_damaged_page_is_a_counted_miss_and_is_dropped(root: Path, how: str, opened: str) -> None:
    store = open_store(root)
    put(store, range(3))
    damage(root, how, 2)
    if opened == "after":
        store.close()
        store = open_store(root)
    buffers = [bytearray(page_of(i)) for i in range(3)]  # what a careless reader would believe
    keys = [key_of(i) for i in range(3)]
    views = [memoryview(b) for b in buffers]
    assert store.read_into("full", keys, views) == [True, True, False]
    stats = store.stats()
    assert stats["num_corrupt_pages"] + stats["num_read_errors"] == 1
    assert store.exists("full", keys) == [True, True, False]
    assert open_store(root).exists("full", keys) == [True, True, False], "not dropped on disk"
    assert put(store, [2]) == [True] and get(store, 2) == page_of(2)
    assert get(open_store(root), 2) == page_of(2)


def test_all_pages_of_a_lost_file_are_dropped(root: Path) -> None:
    store = open_store(root)
    put(store, range(3))
    store.close()
    only(root, "pages").unlink()
    store = open_store(root)
    assert get_all(store, range(3)) == [None] * 3
    assert store.exists("full", [key_of(i) for i in range(3)]) == [False] * 3
    store.close()
    store = open_store(root)
    assert put(store, range(3)) == [True] * 3
    assert get_all(open_store(root), range(3)) == [page_of(i) for i in range(3)]


def test_every_flipped_bit_of_an_index_is_found(root: Path) -> None:
    """A flipped header loses the shard, a flipped record its page; the next writer heals it."""
    store = open_store(root)
    put(store, [1, 2])
    store.close()
    path, second = only(root, "index"), HEADER_BYTES + RECORD_BYTES
    content = path.read_bytes()
    bits = [(byte, bit) for byte in range(len(content)) for bit in range(8)]
    for byte, bit in bits[::5]:
        flip(path, byte, bit)
        store = open_store(root)
        found = [page is not None for page in get_all(store, [1, 2])]
        # The last of a batch is told first.
        in_first = HEADER_BYTES <= byte < second
        assert found == ([False, False] if byte < HEADER_BYTES else [in_first, not in_first])
        assert store.stats()["num_corrupt_pages"] == 1, f"{byte=} {bit=}"
        store.close()
        path.write_bytes(content)
    flip(path, second, 0)
    store = open_store(root)
    assert put(store, [1, 3]) == [True, True] and len(files(root, "index")) == 1
    store = open_store(root)
    assert get_all(store, [1, 2, 3]) == [page_of(i) for i in (1, 2, 3)]
    assert store.stats()["num_corrupt_pages"] == 0


def test_two_swapped_pages_are_two_misses(root: Path) -> None:
    store = open_store(root)
    put(store, [1, 2, 3])
    (path, one), (_, two) = slot_of(root, 1), slot_of(root, 2)
    overwrite(path, one, page_of(2))
    overwrite(path, two, page_of(1))
    assert get_all(store, [1, 2, 3]) == [None, None, page_of(3)]


def test_a_page_is_worth_nothing_under_another_key(root: Path) -> None:
    """A record that is whole, but tells another key's checksum and slot."""
    from xxhash import xxh3_128_digest

    store = open_store(root)
    put(store, [2])
    index = only(root, "index")
    header, record = index.read_bytes()[:HEADER_BYTES], bytearray(index.read_bytes()[HEADER_BYTES:])
    record[16] ^= 1  # another generation
    record[24:56] = key_of(1)
    seed = int.from_bytes(header[-8:], "little") + 1
    record[72:] = xxh3_128_digest(bytes(record[:72]), seed=seed)[:-9:-1]
    store.close()
    with index.open("ab") as file:
        file.write(record)
    store = open_store(root)
    assert store.exists("full", [key_of(1)]) == [True]
    assert get(store, 1) is None, "the checksum is not seeded by the key"


def test_the_index_of_another_shard_or_namespace_is_refused(root: Path) -> None:
    store, other = open_store(root), open_store(root, replace(BASE, shard="1/2"))
    put(store, [1])
    put(other, [1])
    mine, theirs = files(root, "index")
    elsewhere = mine.parent.with_name(f"shard-{'0' * 16}")
    elsewhere.mkdir()
    for source, target in ((theirs, mine), (mine, elsewhere / "index")):
        kept = target.read_bytes() if target.exists() else None
        target.write_bytes(source.read_bytes())
        both = open_store(root), open_store(root, replace(BASE, shard="1/2"))
        assert sum(s.stats()["num_corrupt_pages"] for s in both) == 1
        target.unlink() if kept is None else target.write_bytes(kept)


@pytest.mark.parametrize("suffix", ["pages", "index"])
@pytest.mark.parametrize("what", ["link", "folder", "dangling link"])
def test_something_else_in_a_file_s_place_is_a_miss(
    root: Path, tmp_path, suffix: str, what: str
) -> None:
    writer = open_store(root)
    put(writer, [1, 7, 8, 9])
    writer.close()
    path, elsewhere = only(root, suffix), tmp_path / ("e" * 200)  # a link as long as an index
    content = path.read_bytes()
    path.rename(elsewhere)
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to(elsewhere if what == "link" else tmp_path / "nowhere")
    store = open_store(root)
    assert get(store, 1) is None
    assert put(store, [1, 2]) == [True, True] and get_all(store, [1, 2]) == [page_of(1), page_of(2)]
    assert elsewhere.read_bytes() == content, "followed the link"
    assert not (tmp_path / "nowhere").exists()


def test_for_pools_tells_layouts_apart(root: Path) -> None:
    from hicache_ext.layout import LayoutSpec

    def store_of(**change) -> SegmentStore:
        extents = {"num_pages": 8, "page_size": 4, "num_layers": 2, "num_heads": 1, "head_bytes": 8}
        spec = LayoutSpec.make("page_unified", **extents | change)
        names = {"model": "m", "revision": "r", "dtype": "float32"}
        return SegmentStore.for_pools(root, {"full": spec}, **names)

    store, page = store_of(), memoryview(bytearray(range(128)))
    assert store.write_from("full", [key_of(1)], [page]) == [True]
    assert store_of(num_pages=99).exists("full", [key_of(1)]) == [True]
    for change in ({"page_size": 8}, {"num_layers": 4}, {"head_bytes": 4, "num_heads": 2}):
        assert store_of(**change).exists("full", [key_of(1)]) == [False], change
