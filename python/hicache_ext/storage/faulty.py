"""FaultyStore: a PageStore that goes wrong on demand, for tests and for the demo."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..errors import StorageError
from .limit import Limit
from .protocol import Capabilities, PageStore


class Answer(Enum):
    """What a call about a pool returns instead of one result for each key."""

    NOTHING = "nothing"  # an empty list, as backends do that know no such pool
    SHORT = "short"  # the first half of the results


@dataclass
class Faults:
    """What goes wrong; change the fields while the store runs. All off by default."""

    delay_s: float = 0.0  # every call sleeps first
    lost: set[tuple[str, bytes]] = field(
        default_factory=set
    )  # (pool, key) that neither exists nor can be read
    lost_on_read: set[tuple[str, bytes]] = field(default_factory=set)  # exists says yes, read no
    failed_page_idx: dict[str, int] = field(default_factory=dict)  # pool -> this page of each read
    answers: dict[str, Answer] = field(default_factory=dict)  # pool -> exists and read answer so
    raising: set[str] = field(default_factory=set)  # "exists", "read_into", ...: StorageError
    exists_rate: float = 0.0  # of pages that are there but are said not to be
    read_rate: float = 0.0  # of pages that are lost at a read
    short_rate: float = 0.0  # of pages of which a read delivers the first half
    flip_rate: float = 0.0  # of pages that a read finds with one bit flipped
    write_rate: float = 0.0  # of pages that are not written
    disk_pages: int | None = None  # the disk is full with so many pages; None: it is never


class FaultyStore:
    """Wraps a store and injects `faults`; with none set it behaves as the inner store does.

    Random faults depend on the seed (each rank has its own), the call, pool, key and how often
    that was asked: the same calls fail in the same places whatever the threads do. It fails as a
    store does that checks what it reads: a page that is lost, short or has a flipped bit is False,
    and its buffer is left poisoned, half read or nearly right, for a caller that uses it anyway.
    """

    def __init__(
        self,
        inner: PageStore,
        *,
        seed: int = 0,
        delay_s: float = 0.0,
        lost: Iterable[tuple[str, bytes]] = (),
        lost_on_read: Iterable[tuple[str, bytes]] = (),
        failed_page_idx: Mapping[str, int] | None = None,
        answers: Mapping[str, Answer] | None = None,
        raising: Iterable[str] = (),
        exists_rate: float = 0.0,
        read_rate: float = 0.0,
        short_rate: float = 0.0,
        flip_rate: float = 0.0,
        write_rate: float = 0.0,
        disk_pages: int | None = None,
    ) -> None:
        self.inner = inner
        self.faults = Faults(
            delay_s=delay_s,
            lost=set(lost),
            lost_on_read=set(lost_on_read),
            failed_page_idx=dict(failed_page_idx or {}),
            answers=dict(answers or {}),
            raising=set(raising),
            exists_rate=exists_rate,
            read_rate=read_rate,
            short_rate=short_rate,
            flip_rate=flip_rate,
            write_rate=write_rate,
            disk_pages=disk_pages,
        )
        self._seed = seed
        self._lock = threading.Lock()
        self._num_asked: Counter[tuple[str, str, bytes]] = Counter()
        self._injected: Counter[str] = Counter()

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def injected(self) -> dict[str, int]:
        """What was injected so far: calls delayed, calls raised, pages and answers cut."""
        with self._lock:
            return dict(self._injected)

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        self._enter("exists", limit)
        results = self.inner.exists(pool, keys, limit)
        for i, key in enumerate(keys[: len(results)]):
            is_lost = (pool, key) in self.faults.lost
            if results[i] and (is_lost or self._draw("exists", pool, key, self.faults.exists_rate)):
                results[i] = self._inject("num_hidden_pages")
        return self._answer(pool, results)

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        self._enter("read_into", limit)
        results = self.inner.read_into(pool, keys, pages, limit)
        for i, key in enumerate(keys[: len(results)]):
            where = (pool, key)
            is_lost = where in self.faults.lost or where in self.faults.lost_on_read
            is_lost |= self.faults.failed_page_idx.get(pool) == i
            if not results[i]:
                continue
            page = pages[i].cast("B")
            if is_lost or self._draw("read", pool, key, self.faults.read_rate):
                results[i] = self._inject("num_lost_pages")
                page[:] = b"\xff" * len(page)
            elif self._draw("short", pool, key, self.faults.short_rate):
                results[i] = self._inject("num_short_pages")
                page[len(page) // 2 :] = b"\xff" * (len(page) - len(page) // 2)
            elif self._draw("flip", pool, key, self.faults.flip_rate):
                results[i] = self._inject("num_flipped_pages")
                page[key[0] % len(page)] ^= 1
        return self._answer(pool, results)

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        self._enter("write_from", limit)
        rate, full = self.faults.write_rate, self._without_room(pool, keys)
        kept = [
            i
            for i, key in enumerate(keys)
            if key not in full and not self._draw("write", pool, key, rate)
        ]
        if len(kept) == len(keys):
            return self.inner.write_from(pool, keys, pages, limit)
        self._inject("num_unwritten_pages", len(keys) - len(kept))
        results = [False] * len(keys)
        some_keys, some_pages = [keys[i] for i in kept], [pages[i] for i in kept]
        written = self.inner.write_from(pool, some_keys, some_pages, limit)
        for i, is_written in zip(kept, written, strict=True):
            results[i] = is_written
        return results

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        self._enter("remove")
        return self.inner.remove(pool, keys)

    def clear(self) -> None:
        self._enter("clear")
        self.inner.clear()

    def stats(self) -> dict[str, int]:
        """The inner store's, and what was injected under injected_*."""
        return self.inner.stats() | {f"injected_{k}": v for k, v in self.injected.items()}

    def close(self) -> None:
        self.inner.close()

    def _enter(self, call: str, limit: Limit | None = None) -> None:
        if self.faults.delay_s > 0:
            self._inject("num_delayed_calls")
            (limit or Limit()).sleep(self.faults.delay_s)
        if call in self.faults.raising:
            self._inject("num_raised_calls")
            raise StorageError(f"FaultyStore: {call} was told to fail")

    def _without_room(self, pool: str, keys: Sequence[bytes]) -> set[bytes]:
        """New pages that a full disk does not take."""
        if self.faults.disk_pages is None:
            return set()
        room = max(0, self.faults.disk_pages - self.inner.stats()["num_pages"])
        known = self.inner.exists(pool, keys)
        new = dict.fromkeys(k for k, is_there in zip(keys, known, strict=True) if not is_there)
        return set(list(new)[room:])

    def _answer(self, pool: str, results: list[bool]) -> list[bool]:
        answer = self.faults.answers.get(pool)
        if answer is None or not results:
            return results
        self._inject("num_cut_answers")
        return [] if answer is Answer.NOTHING else results[: len(results) // 2]

    def _draw(self, call: str, pool: str, key: bytes, rate: float) -> bool:
        if rate <= 0:
            return False
        with self._lock:
            self._num_asked[call, pool, key] += 1
            nth = self._num_asked[call, pool, key]
        text = f"{self._seed}/{call}/{pool}/{nth}/".encode() + key
        draw = hashlib.blake2b(text, digest_size=8).digest()
        return int.from_bytes(draw, "little") < rate * 2**64

    def _inject(self, what: str, number: int = 1) -> bool:
        """Count it; the False is the result of the page that it befell."""
        with self._lock:
            self._injected[what] += number
        return False
