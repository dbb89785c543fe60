"""What one process knows of the pages of one pool of an ObjectStore."""

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from .object_index import Entry, IndexFormat, ObjectIndex
from .remote import RemotePool


class Want(NamedTuple):
    """Pages that are to be read from one data object."""

    data_object: tuple[str, int]
    pages: list[tuple[int, Entry]]  # with the position in the batch
    is_most: bool  # of what lies there: reading the whole object is no dearer


class PoolState:
    """The index, and where the objects are."""

    def __init__(self, pool: RemotePool, folder: str) -> None:
        self.folder = folder
        self.page_bytes = pool.page_bytes
        self.format = IndexFormat(pool)
        self.index = ObjectIndex()
        self.lock = threading.Lock()  # of the index
        self.refreshing = threading.Lock()  # one refresh at a time; taken before the other
        self.refreshed_at_s = float("-inf")

    @property
    def age_s(self) -> float:
        """Since the last refresh began."""
        return time.monotonic() - self.refreshed_at_s

    def data_path(self, data_object: tuple[str, int]) -> str:
        return f"{self.folder}/data/{data_object[0]}/{data_object[1]:08x}"

    def index_path(self, name: str) -> str:
        return f"{self.folder}/index/{name}"

    def find(self, keys: Sequence[bytes]) -> list[Entry | None]:
        with self.lock:
            return [self.index.find(key) for key in keys]

    def wants(self, found: Sequence[Entry | None]) -> list[Want]:
        """What was found, by data object."""
        grouped: dict[tuple[str, int], list[tuple[int, Entry]]] = {}
        for position, entry in enumerate(found):
            if entry is not None:
                grouped.setdefault(entry.place.data_object, []).append((position, entry))
        with self.lock:
            return [
                Want(where, pages, 2 * len(pages) >= self.index.num_live(where))
                for where, pages in grouped.items()
            ]

    def learn(self, name: str, data: bytes) -> bool:
        """From an index object; False if it is none of this pool and version."""
        entries, places = None, None
        if name.endswith(".pages"):
            entries = self.format.unpack_pages(name.partition(".")[0], data)
        else:
            places = self.format.unpack_dead(data)
        with self.lock:
            if entries is not None:
                self.index.add(name, entries)
            self.index.names.add(name)
            if places is not None:
                self.index.bury(places)
        return entries is not None or places is not None
