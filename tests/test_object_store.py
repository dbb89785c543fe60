"""ObjectStore at a real S3 service: ranges, other processes, tombstones, damaged objects."""

import random
import re
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from net_servers import shared_s3
from s3_door import S3Door
from store_backends import NAMESPACES, PAGE_BYTES, get, key_of, open_bucket, page_of, put

from hicache_ext.errors import StorageError
from hicache_ext.storage import ObjectStore, object_index, open_s3

PER_OBJECT = 4


def open_store(bucket, prefix: str, **options) -> ObjectStore:
    options = {"object_bytes": PER_OBJECT * PAGE_BYTES["full"], "refresh_s": 0.0} | options
    return ObjectStore(bucket, NAMESPACES, PAGE_BYTES, prefix=prefix, **options)


@pytest.fixture
def bucket():
    return open_bucket(shared_s3().port)


@pytest.fixture
def prefix(tmp_path) -> str:
    return tmp_path.name


@pytest.fixture
def store(bucket, prefix):
    with closing(open_store(bucket, prefix)) as made:
        yield made


def files(prefix: str, kind: str) -> list:
    """What lies in the bucket: "data" or "index"."""
    return sorted(
        p for p in (shared_s3().folder / prefix).glob(f"*/full/{kind}/**/*") if p.is_file()
    )


@pytest.mark.parametrize("name", ["ab", "", "x" * 64])
def test_a_bucket_name_that_cannot_be(name: str) -> None:
    with pytest.raises(StorageError, match=re.escape(f"bucket {name!r}: {len(name)} characters")):
        open_s3(name)


def test_who_is_not_let_in_is_told_at_open(prefix) -> None:
    port = shared_s3().port
    with pytest.raises(StorageError, match="SignatureDoesNotMatch") as error:
        open_store(open_bucket(port, secret="not-the-secret"), prefix)
    assert "not-the-secret" not in str(error.value)
    with pytest.raises(StorageError, match="NoSuchBucket"):
        open_store(open_bucket(port, bucket="not-there"), prefix)
    with pytest.raises(StorageError, match="open"):
        open_store(open_bucket(1, timeout_s=1.0), prefix)


def test_bad_options_are_typed_errors(bucket) -> None:
    for name, value in {"object_bytes": 0, "num_requests": 0, "refresh_s": -1}.items():
        with pytest.raises(StorageError, match=f"{name}={value}"):
            ObjectStore(bucket, NAMESPACES, PAGE_BYTES, **{name: value})


def test_pages_are_packed_and_a_few_are_read_by_range(prefix) -> None:
    door, size = S3Door(shared_s3().port), PAGE_BYTES["full"]
    with closing(door), closing(open_store(open_bucket(door.port), prefix)) as store:
        assert put(store, range(10)) == [True] * 10
        assert len(files(prefix, "data")) == 3 and len(files(prefix, "index")) == 1
        assert [p.stat().st_size for p in files(prefix, "data")] == [4 * size, 4 * size, 2 * size]
        door.gets()
        assert get(store, [1]) == [page_of(1)]
        assert door.gets() == [f"bytes={size}-{2 * size - 1}"]
        assert get(store, [9, 0, 1, 2, 5, 3]) == [page_of(n) for n in (9, 0, 1, 2, 5, 3)]
        # Object 0 as a whole, one of the four pages of object 1, one of the two of object 2.
        assert sorted(door.gets(), key=str) == [None, None, f"bytes={size}-{2 * size - 1}"]
        assert store.stats()["has_ranges"] == 1


def test_a_service_without_ranges_is_found_out(store) -> None:
    put(store, range(10))
    assert store.stats()["has_ranges"] == 1
    assert get(store, [1]) == [page_of(1)]
    assert store.stats()["has_ranges"] == 0 and store.stats()["num_failed_calls"] == 0
    assert get(store, [5, 9]) == [page_of(5), page_of(9)]


def test_others_find_what_was_written_and_removed(bucket, prefix, store) -> None:
    with closing(open_store(bucket, prefix)) as other:
        put(store, range(6))
        assert other.exists("full", [key_of(n) for n in range(7)]) == [True] * 6 + [False]
        assert get(other, range(6)) == [page_of(n) for n in range(6)]
        assert other.remove("full", [key_of(0), key_of(1)]) == 2
        assert store.exists("full", [key_of(7)]) == [False]  # looks what is new
        assert get(store, range(3)) == [None, None, page_of(2)]
        assert put(store, [0]) == [True]
        assert get(other, [0, 1]) == [page_of(0), None]
    with closing(open_store(bucket, prefix)) as late:
        assert get(late, range(3)) == [page_of(0), None, page_of(2)]
        assert late.stats()["num_pages"] == 5
        late.clear()
    assert store.exists("full", [key_of(7), key_of(2)]) == [False, False]
    assert files(prefix, "data") == files(prefix, "index") == []
    assert put(store, [2]) == [True] and get(store, [2]) == [page_of(2)]


def test_known_pages_are_read_without_a_look_at_the_index(prefix) -> None:
    door = S3Door(shared_s3().port)
    with (
        closing(door),
        closing(open_store(open_bucket(door.port), prefix, refresh_s=60.0)) as store,
    ):
        put(store, range(4))
        door.requests.clear()
        get(store, range(4))
        assert store.exists("full", [key_of(0), key_of(99)]) == [True, False]
        assert [method for method, _, _ in door.requests] == ["GET"]


def test_a_page_that_two_wrote_is_removed_in_both_places(bucket, prefix, store) -> None:
    with closing(open_store(bucket, prefix, refresh_s=60.0)) as other:
        put(store, [1, 2])
        put(other, [1, 3])  # does not know of the first
        assert len(files(prefix, "data")) == 2
        assert get(store, [1, 2, 3]) == [page_of(1), page_of(2), page_of(3)]
        assert store.stats()["num_pages"] == 3
        assert store.remove("full", [key_of(1)]) == 1
        assert get(store, [1]) == [None]
    with closing(open_store(bucket, prefix)) as late:
        assert get(late, [1, 2, 3]) == [None, page_of(2), page_of(3)]


def test_the_object_goes_with_its_last_page(prefix, store) -> None:
    put(store, range(6))
    assert len(files(prefix, "data")) == 2
    store.remove("full", [key_of(n) for n in (0, 1, 2)])
    assert len(files(prefix, "data")) == 2
    store.remove("full", [key_of(n) for n in (3, 4)])
    assert [p.name for p in files(prefix, "data")] == ["00000001"]
    assert get(store, range(6)) == [None] * 5 + [page_of(5)]


def test_namespaces_and_pools_are_apart(bucket, prefix, store) -> None:
    spaces = {pool: replace(space, revision="r2") for pool, space in NAMESPACES.items()}
    with closing(ObjectStore(bucket, spaces, PAGE_BYTES, prefix=prefix)) as other:
        put(store, [1])
        assert get(other, [1]) == [None]
        other.clear()
    odd = {name: NAMESPACES["full"] for name in ("a/b", "a_b", "../x", "*")}
    with closing(ObjectStore(bucket, odd, dict.fromkeys(odd, 8), prefix=prefix)) as pools:
        for i, name in enumerate(odd):
            pools.write_from(name, [key_of(0)], [memoryview(b"%08d" % i)])
        buffer = bytearray(8)
        for i, name in enumerate(odd):
            assert pools.read_into(name, [key_of(0)], [memoryview(buffer)]) == [True]
            assert buffer == b"%08d" % i
    assert get(store, [1]) == [page_of(1)]


def test_it_does_not_matter_which_index_is_read_first() -> None:
    batch = object_index.new_batch()
    places = [object_index.Place(batch, 0, slot) for slot in range(3)]
    entries = [object_index.Entry(key_of(p.slot), bytes(16), p) for p in places]
    for order in (("pages", "dead"), ("dead", "pages")):
        index = object_index.ObjectIndex()
        for kind in order:
            if kind == "pages":
                index.add(f"{batch}.pages", entries)
            else:
                assert index.bury(places[:2]) == []
        assert [index.find(key_of(n)) for n in range(3)] == [None, None, entries[2]]
        assert len(index) == 1 and index.num_live((batch, 0)) == 1
        assert index.bury(places) == [(batch, 0)] and len(index) == 0
        assert index.bury(places) == []


def test_a_version_from_the_future_is_a_miss(bucket, prefix, store, monkeypatch) -> None:
    monkeypatch.setattr(object_index, "FORMAT_VERSION", object_index.FORMAT_VERSION + 1)
    with closing(open_store(bucket, prefix)) as newer:
        put(newer, range(3))
        monkeypatch.undo()
        assert get(store, range(3)) == [None] * 3
        assert store.exists("full", [key_of(0)]) == [False]
        assert store.stats()["num_foreign_indexes"] == 1  # and is not looked at again
        assert put(store, [1]) == [True] and get(store, range(3)) == [None, page_of(1), None]
        assert get(newer, range(3)) == [page_of(n) for n in range(3)]


def test_without_obstore_it_names_the_extra(bucket, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    for call in (lambda: open_s3("bucket"), lambda: ObjectStore(bucket, NAMESPACES, PAGE_BYTES)):
        with pytest.raises(StorageError, match=r"hicache_ext\[s3\]"):
            call()


DAMAGE = {
    "a flipped bit": lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
    "cut short": lambda data: data[:6000],
    "empty": lambda data: b"",
    "other bytes": lambda data: bytes(len(data)),
    "pages swapped": lambda data: data[4096:8192] + data[:4096] + data[8192:],
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("is_behind_door", [False, True])
def test_a_damaged_data_object(prefix, what: str, is_behind_door: bool) -> None:
    """Whole reads, and reads by range, of pages of which not all are what was written."""
    door = S3Door(shared_s3().port)
    port = door.port if is_behind_door else shared_s3().port
    with closing(door), closing(open_store(open_bucket(port), prefix)) as store:
        put(store, range(PER_OBJECT))
        (path,) = files(prefix, "data")
        path.write_bytes(damaged := DAMAGE[what](path.read_bytes()))
        size = PAGE_BYTES["full"]
        good = [damaged[n * size : (n + 1) * size] == page_of(n) for n in range(PER_OBJECT)]
        for n in range(PER_OBJECT):
            assert get(store, [n]) == [page_of(n) if good[n] else None]
        assert store.stats()["num_corrupt_pages"] == good.count(False)
        assert store.stats()["num_failed_calls"] == 0
        assert put(store, range(PER_OBJECT)) == [True] * PER_OBJECT
        assert get(store, range(PER_OBJECT)) == [page_of(n) for n in range(PER_OBJECT)]


def test_a_data_object_that_is_gone(bucket, prefix, store) -> None:
    put(store, range(8))
    path = files(prefix, "data")[0].relative_to(shared_s3().folder)
    bucket.delete([str(path)])
    assert get(store, range(8)) == [None] * 4 + [page_of(n) for n in range(4, 8)]
    assert store.exists("full", [key_of(0), key_of(4)]) == [False, True]
    assert put(store, [0]) == [True] and get(store, [0]) == [page_of(0)]
    assert store.stats()["num_failed_calls"] == 0


def test_an_index_of_any_bytes(bucket, prefix, store) -> None:
    """Damaged, of a later version, of another pool: a miss, and counted."""
    put(store, range(5))
    put(store, range(3), "swa")
    store.remove("full", [key_of(3)])
    good = {path: path.read_bytes() for path in files(prefix, "index")}
    foreign = next((shared_s3().folder / prefix).glob("*/swa/index/*")).read_bytes()
    assert len(good) == 2
    for seed in range(40):
        rng = random.Random(seed)
        path = rng.choice(list(good))
        data = bytearray(good[path])
        how = rng.randrange(4)
        if how == 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[rng.randrange(len(data)) :]
        elif how == 2:
            data += rng.randbytes(rng.choice([1, 56, 112]))
        path.write_bytes(foreign if how == 3 else data)
        with closing(open_store(bucket, prefix)) as late:
            assert late.stats()["num_foreign_indexes"] == 1, seed
            expected = [None if path.suffix == ".pages" else page_of(n) for n in range(5)]
            assert get(late, range(5)) == expected, seed
        path.write_bytes(good[path])
    (path.parent / "readme.txt").write_text("not ours")
    with closing(open_store(bucket, prefix)) as late:
        assert get(late, range(5)) == [*map(page_of, range(3)), None, page_of(4)]
        assert late.stats()["num_foreign_indexes"] == 0
