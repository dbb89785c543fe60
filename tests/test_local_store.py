"""LocalStore: what is on disk, what is refused at open, and what a damaged page becomes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from hicache_ext.storage import LocalStore, StoreNamespace
from hicache_ext.storage.page_file import HEADER_BYTES

PAGE_BYTES = 5000
BASE = StoreNamespace("gemma", "r1", "float32", {"num_layers": 18, "num_kv": 2}, 16, "0/2")


def open_store(root: Path, namespace: StoreNamespace = BASE, **options) -> LocalStore:
    return LocalStore(root, {"full": namespace}, {"full": PAGE_BYTES}, **options)


def key_of(i: int) -> bytes:
    return random.Random(i).randbytes(32)


def page_of(i: int) -> bytes:
    return random.Random(-i - 1).randbytes(PAGE_BYTES)


def put(store: LocalStore, numbers) -> list[bool]:
    pages = [memoryview(page_of(i)) for i in numbers]
    return store.write_from("full", [key_of(i) for i in numbers], pages)


def get(store: LocalStore, i: int) -> bytes | None:
    buffer = bytearray(b"\xa5" * PAGE_BYTES)
    (found,) = store.read_into("full", [key_of(i)], [memoryview(buffer)])
    return bytes(buffer) if found else None


def page_file(root: Path, i: int) -> Path:
    (path,) = root.rglob(key_of(i).hex())
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def test_a_fresh_store_finds_everything(root: Path) -> None:
    with_pages = open_store(root)
    assert put(with_pages, range(20)) == [True] * 20
    with_pages.close()
    store = open_store(root)
    assert store.stats()["num_pages"] == 20
    assert [get(store, i) for i in range(20)] == [page_of(i) for i in range(20)]
    assert store.stats()["num_corrupt_pages"] == 0


def test_folders_are_private_and_the_file_is_header_and_payload(root: Path) -> None:
    store = open_store(root)
    put(store, [1])
    path = page_file(root, 1)
    for folder in (root, path.parent, path.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert content[HEADER_BYTES:] == page_of(1) and key_of(1) in content[:HEADER_BYTES]
    assert [p.name for p in path.parent.iterdir()] == [path.name], "a temporary file is left"


def test_known_answer_pins_the_file_format(root: Path) -> None:
    store = LocalStore(root, {"full": BASE}, {"full": 16})
    store.write_from("full", [bytes(range(32))], [memoryview(bytes(16))])
    (path,) = root.rglob(bytes(range(32)).hex())
    assert path.parent.parent.name == KNOWN_FOLDER
    assert path.read_bytes().hex() == KNOWN_FILE + bytes(24 + 16).hex()


KNOWN_FOLDER = "full-9043b3f7b143aa42ce2c3d53"
KNOWN_FILE = (
    "48494350414745000100000080000000100000000000000084ef611340222b00"
    "d98677ae192187112f7150e2a706134667ac7473534cdddc0001020304050607"
    "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f96dfbbad3673e193"
    "16bf228c65ba1a1a"
)  # magic, version, header bytes, payload bytes, namespace, key, checksum


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


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[:-1]
    elif how == "header only":
        content = content[:HEADER_BYTES]
    elif how == "half a header":
        content = content[: HEADER_BYTES // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "zeros":
        content = bytearray(len(content))
    elif how == "other version":
        content[8] += 1
    path.write_bytes(content)


DAMAGES = ["truncated", "header only", "half a header", "empty", "zeros", "other version"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_damaged_page_is_a_counted_miss_and_is_dropped(root: Path, how: str, opened: str) -> None:
    store = open_store(root)
    put(store, range(3))
    get(store, 0)  # the reader's header buffer holds a good header, which must not be believed
    path = page_file(root, 1)
    damage(path, how)
    if opened == "after":
        store.close()
        store = open_store(root)
    buffers = [bytearray(page_of(i)) for i in range(3)]  # what a careless reader would believe
    keys = [key_of(i) for i in range(3)]
    views = [memoryview(b) for b in buffers]
    assert store.read_into("full", keys, views) == [True, False, True]
    assert store.stats()["num_corrupt_pages"] == 1 and not path.exists()
    assert store.exists("full", keys) == [True, False, True]
    assert put(store, [1]) == [True] and get(store, 1) == page_of(1)


def test_every_flipped_bit_of_the_header_and_any_of_the_payload_is_found(root: Path) -> None:
    store = open_store(root)
    rng = random.Random(7)
    bits = [*range(8 * HEADER_BYTES), *(rng.randrange(8 * PAGE_BYTES) for _ in range(200))]
    put(store, [1])
    content = page_file(root, 1).read_bytes()
    for number, bit in enumerate(bits):
        is_payload = number >= 8 * HEADER_BYTES
        flipped = bytearray(content)
        flipped[bit // 8 + (HEADER_BYTES if is_payload else 0)] ^= 1 << bit % 8
        path = root / page_file_name(root)
        path.write_bytes(flipped)
        assert get(store, 1) is None, f"{bit=} {is_payload=}"
    assert store.stats()["num_corrupt_pages"] == len(bits)


def page_file_name(root: Path) -> str:
    name = key_of(1).hex()
    (folder,) = (path.name for path in root.glob("full-*"))
    return f"{folder}/{name[0]}/{name}"


def test_a_page_under_another_key_is_a_miss(root: Path) -> None:
    store = open_store(root)
    put(store, [1, 2])
    page_file(root, 1).write_bytes(page_file(root, 2).read_bytes())
    assert get(store, 1) is None and get(store, 2) == page_of(2)


def test_a_payload_is_worth_nothing_under_another_key(root: Path) -> None:
    store = open_store(root)
    put(store, [1, 2])
    forged = page_file(root, 2).read_bytes().replace(key_of(2), key_of(1))
    page_file(root, 1).write_bytes(forged)
    assert get(store, 1) is None, "the checksum is not seeded by the key"


def test_a_page_of_another_namespace_under_our_name_is_a_miss(root: Path) -> None:
    store, other = open_store(root), open_store(root, replace(BASE, shard="1/2"))
    put(store, [1])
    put(other, [1])
    mine, theirs = sorted(root.rglob(key_of(1).hex()))
    assert mine.read_bytes() != theirs.read_bytes()
    mine.write_bytes(theirs.read_bytes())
    assert [get(store, 1), get(other, 1)].count(None) == 1


@pytest.mark.parametrize("what", ["link", "folder", "dangling link"])
def test_something_else_in_a_page_s_place_is_a_miss(root: Path, tmp_path, what: str) -> None:
    store = open_store(root)
    put(store, [1])
    path, elsewhere = page_file(root, 1), tmp_path / "elsewhere"
    path.rename(elsewhere)
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to(elsewhere if what == "link" else tmp_path / "nowhere")
    assert get(store, 1) is None
    assert elsewhere.read_bytes()[HEADER_BYTES:] == page_of(1), "followed the link"


def test_for_pools_tells_layouts_apart(root: Path) -> None:
    from hicache_ext.layout import LayoutSpec

    def store_of(**change) -> LocalStore:
        extents = {"num_pages": 8, "page_size": 4, "num_layers": 2, "num_heads": 1, "head_bytes": 8}
        spec = LayoutSpec.make("page_unified", **extents | change)
        names = {"model": "m", "revision": "r", "dtype": "float32"}
        return LocalStore.for_pools(root, {"full": spec}, **names)

    store, page = store_of(), memoryview(bytearray(range(128)))
    assert store.write_from("full", [key_of(1)], [page]) == [True]
    assert store_of(num_pages=99).exists("full", [key_of(1)]) == [True]
    for change in ({"page_size": 8}, {"num_layers": 4}, {"head_bytes": 4, "num_heads": 2}):
        assert store_of(**change).exists("full", [key_of(1)]) == [False], change
