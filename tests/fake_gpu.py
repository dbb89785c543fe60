"""Streams of a GPU that a test runs step by step, in any order that the waits among them allow."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable


class FakeCopy:
    """A copy on a fake stream: a `Running` for a Ticket. `work` is called when it executes."""

    def __init__(self, gpu: FakeGpu, work: Callable[[], None], fails: Exception | None) -> None:
        self._gpu = gpu
        self._fails = fails
        self.work = work
        self.is_done = False

    def query(self) -> bool:
        self._gpu.num_queries += 1
        return self.is_done

    def wait(self) -> None:
        """As on a GPU, other streams get on meanwhile."""
        while not self.is_done:
            assert self._gpu.step(), "a deadlock: no stream can go on"

    def wait_on_stream(self, stream: int) -> None:
        self._gpu.streams[stream].append(self)  # met in a queue that is not its own, it is a wait

    def result(self) -> int:
        self.wait()
        if self._fails is not None:
            raise self._fails
        return 1


def _nothing() -> None:
    pass


class FakeGpu:
    """FIFO queues of copies and waits; step() executes the head of one that can go on."""

    def __init__(self, seed: int) -> None:
        self.num_queries = 0
        self.streams: dict[int, deque[FakeCopy]] = defaultdict(deque)
        self._owner: dict[FakeCopy, int] = {}
        self._random = random.Random(seed)

    def start(
        self, stream: int, work: Callable[[], None], fails: Exception | None = None
    ) -> FakeCopy:
        copy = FakeCopy(self, work, fails)
        self._owner[copy] = stream
        self.streams[stream].append(copy)
        return copy

    def step(self) -> bool:
        """Executes one copy or passes one wait; False if every stream is empty or waits."""
        ready = [s for s, queue in self.streams.items() if queue and self._can_go_on(s)]
        if not ready:
            return False
        stream = self._random.choice(ready)
        head = self.streams[stream].popleft()
        if self._owner[head] == stream and not head.is_done:
            head.work()
            head.work = _nothing  # whose buffers are the ticket's to keep
            head.is_done = True
        return True

    def finish(self) -> None:
        """Executes everything."""
        while self.step():
            pass
        assert not any(self.streams.values()), "a deadlock: no stream can go on"

    def _can_go_on(self, stream: int) -> bool:
        head = self.streams[stream][0]
        return self._owner[head] == stream or head.is_done
