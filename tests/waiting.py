"""How tests wait: for what happens, not for a time, since a busy machine pauses anybody."""

import time
from collections.abc import Callable

# Longer than any such pause. Who is to be told "at once" may be told within this, and is given a
# deadline of LONG_S, so that only a fault takes that long.
PATIENCE_S = 30.0
LONG_S = 2 * PATIENCE_S


def wait_for(is_so: Callable[[], object], poll_s: float = 0.005) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s, f"not so within {PATIENCE_S} s"
        time.sleep(poll_s)


class Clock:
    """That goes on when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s
