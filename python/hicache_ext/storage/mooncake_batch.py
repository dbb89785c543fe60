"""The pages of one read or write of a MooncakeStore: cut up, handed to the engine, verified."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from .. import _C
from ..keys import page_checksum
from .lanes import Lane
from .mooncake_client import CHUNK_BYTES, CHUNK_PAGES, TRAILER_BYTES, MooncakeClient
from .mooncake_codes import Code, counter_of
from .remote import RemotePart, dealt
from .remote_call import Patience

# Of time that is left: a quarter of what a slow network moves, so that four calls fit in.
_BYTES_PER_S = 50e6

Move = Callable[[list[str], list[list[int]], list[list[int]]], list[int]]


class PageBatch:
    """An object is a page and its checksum. `results`, `are_new` and `counters` fill as calls
    end; tell() hands them to whom they belong.
    """

    def __init__(
        self, client: MooncakeClient, names: Sequence[str], parts: Sequence[RemotePart]
    ) -> None:
        """`names` of the objects, of all parts one after the other; at least one."""
        self.names = names
        self.pages = [page for part in parts for page in part.pages]
        self.results = [False] * len(names)
        self.are_new = [False] * len(names)
        self.counters: Counter[str] = Counter()
        self.corrupt: list[str] = []  # names of objects that are not what was written
        self._client = client
        self._keys = [key for part in parts for key in part.keys]
        self._first: dict[str, int] = {}
        for position, name in enumerate(names):
            self._first.setdefault(name, position)
        self.firsts = list(self._first.values())  # one position of each object

    def tell(self, parts: Sequence[RemotePart]) -> None:
        """Fills in what is known by now; `parts` are those that it was made of."""
        each = zip(parts, dealt(parts, self.results), dealt(parts, self.are_new), strict=True)
        for part, results, are_new in each:
            part.results[:], part.are_new[:] = results, are_new

    def repeats(self) -> Iterator[tuple[int, int]]:
        """(first position of the object, a later one) of every one that is there again."""
        if len(self.firsts) < len(self.names):
            for position, name in enumerate(self.names):
                if position != self._first[name]:
                    yield self._first[name], position

    def chunks(self, positions: Sequence[int], patience: Patience) -> Iterator[Sequence[int]]:
        """Of one engine call each: the less time is left, the smaller, to end in time."""
        start = 0
        while start < len(positions):
            most_bytes = min(CHUNK_BYTES, int(patience.left_s() * _BYTES_PER_S))
            end = start + 1
            num_bytes = self.pages[positions[start]].nbytes
            while end < min(len(positions), start + CHUNK_PAGES):
                num_bytes += self.pages[positions[end]].nbytes
                if num_bytes > most_bytes:
                    break
                end += 1
            yield positions[start:end]
            start = end

    def begin_read(self, chunk: Sequence[int], lane: Lane) -> Callable[[], list[int]]:
        """The engine's call that fills these pages and the lane's trailers."""
        return self._move(self._client.engine.batch_get_into_multi_buffers, chunk, lane)

    def end_read(self, chunk: Sequence[int], lane: Lane, codes: list[int]) -> None:
        """Verifies what came: the codes are the bytes of each object, or errors."""
        trailers, _ = self._client.trailers(lane)
        for i, (position, code) in enumerate(zip(chunk, codes, strict=True)):
            trailer = trailers[i * TRAILER_BYTES : (i + 1) * TRAILER_BYTES]
            if code < 0:
                self._count(code)
            elif code == self._object_bytes(position) and self._checksum(position) == trailer:
                self.results[position] = True
                continue
            else:
                self._count(Code.BAD_SIZE)
            if code >= 0 or code == Code.BAD_SIZE:
                self.corrupt.append(self.names[position])

    def begin_write(self, config: Any, chunk: Sequence[int], lane: Lane) -> Callable[[], list[int]]:
        """Checksums these pages into the lane's trailers; the engine's call that stores both."""
        trailers, _ = self._client.trailers(lane)
        trailers[: len(chunk) * TRAILER_BYTES] = b"".join(map(self._checksum, chunk))
        put = self._client.engine.batch_put_from_multi_buffers
        return self._move(lambda *objects: put(*objects, config), chunk, lane)

    def end_write(self, chunk: Sequence[int], lane: Lane, codes: list[int]) -> None:
        """What was stored; EXISTS: by somebody else, between our question and our put."""
        for position, code in zip(chunk, codes, strict=True):
            self.results[position] = code in (0, Code.EXISTS)
            if code == 0:
                self.are_new[position] = True
                self.counters["num_written_pages"] += 1
                self.counters["written_bytes"] += self.pages[position].nbytes
            elif code != Code.EXISTS:
                self._count(code)

    def _move(self, move: Move, chunk: Sequence[int], lane: Lane) -> Callable[[], list[int]]:
        """The arrays are exports of the caller's views: neither can be let go of in flight."""
        arrays = [np.frombuffer(self.pages[position], np.uint8) for position in chunk]
        names = [self.names[position] for position in chunk]
        return partial(_move, self._client, move, names, arrays, self._client.trailers(lane)[1])

    def _object_bytes(self, position: int) -> int:
        return self.pages[position].nbytes + TRAILER_BYTES

    def _checksum(self, position: int) -> bytes:
        return page_checksum(self._keys[position], self.pages[position])

    def _count(self, code: int) -> None:
        counter = counter_of(code)
        if counter is not None:
            self.counters[counter] += 1


def _move(
    client: MooncakeClient, move: Move, names: list[str], arrays: list[Any], trailers: int
) -> list[int]:
    """On a lane: one engine call, with memory that the engine may reach."""
    addresses = [_C.array_address(array) for array in arrays]
    parts = [[address, trailers + i * TRAILER_BYTES] for i, address in enumerate(addresses)]
    sizes = [[array.nbytes, TRAILER_BYTES] for array in arrays]
    with ExitStack() as borrowed:
        for num_bytes in {array.nbytes for array in arrays}:
            some = [at for at, a in zip(addresses, arrays, strict=True) if a.nbytes == num_bytes]
            passing = client.memory.borrow(some, num_bytes)
            borrowed.callback(client.memory.return_, passing, num_bytes)
        return move(names, parts, sizes)
