"""The calls that are under way in a store: close() waits for them, and then there are none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import StorageError


class OpenCalls:
    """Thread-safe."""

    def __init__(self, store: str) -> None:
        """`store` names it in the error of a call that comes too late."""
        self._store = store
        self._idle = threading.Condition()
        self._num_calls = 0
        self._is_closed = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call lasts as long as the block. StorageError once close() has begun."""
        with self._idle:
            if self._is_closed:
                raise StorageError(f"{self._store} is closed")
            self._num_calls += 1
        try:
            yield
        finally:
            with self._idle:
                self._num_calls -= 1
                self._idle.notify_all()

    def close(self) -> bool:
        """Lets no further call in and waits for the others; False where that was done before."""
        with self._idle:
            was_closed, self._is_closed = self._is_closed, True
            self._idle.wait_for(lambda: self._num_calls == 0)
        return not was_closed
