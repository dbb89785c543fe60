"""What a decode-like kernel loses while pages are copied beside it, and what the copies reach.

Decode reads weights and KV from device memory and computes little: here a loop that reads one
array and writes another. It is timed alone and while another thread copies pages without a pause,
in turn.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu_sweep import RUNS_PER_PAGE, Case, Machine, Pages
from benchmarks.harness import interleaved, timed


class DecodeMachine(Machine):
    """A machine that also has something to compute."""

    def decode(self) -> None:
        """A few memory-bound steps on the device; returns when they are done."""


@dataclass(frozen=True)
class Loss:
    """share: how much longer decode takes beside the copy, 0.1 = 10 %."""

    direction: str
    executor: str
    num_sms: int | None
    alone_s: float
    beside_s: float
    copy_gbps: float

    @property
    def share(self) -> float:
        return self.beside_s / self.alone_s - 1


class Copier:
    """A thread that copies the same pages again and again while it is entered."""

    def __init__(self, copy: Callable[[], int]) -> None:
        self._copy = copy
        self._stop = threading.Event()
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self.num_bytes = 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.num_bytes += self._copy()
                self._started.set()
        except BaseException as error:
            self._error = error
            self._started.set()

    def __enter__(self) -> Copier:
        self._thread.start()
        self._started.wait()
        self.num_bytes = 0  # what went before the measurement
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


def measure_loss(
    machine: DecodeMachine, case: Case, contender: tuple[str, int | None], num_rounds: int
) -> Loss:
    """Decode alone and beside one contender that copies the case."""
    executor, num_sms = contender
    pages = Pages(machine, case)
    speeds = []

    def beside() -> float:
        with Copier(lambda: pages.copy(executor, num_sms)) as copier:
            seconds = timed(machine.decode)()
            speeds.append(copier.num_bytes / seconds / 1e9)
        return seconds

    samples = interleaved({"alone": timed(machine.decode), "beside": beside}, num_rounds=num_rounds)
    loss = Loss(
        direction=case.direction.value,
        executor=executor,
        num_sms=num_sms,
        alone_s=samples["alone"].median,
        beside_s=samples["beside"].median,
        copy_gbps=statistics.median(speeds),
    )
    quota = "" if num_sms is None else f" on {num_sms} SMs"
    print(
        f"{loss.direction:>16} {case.run_bytes} B x {case.num_pages * RUNS_PER_PAGE}: decode "
        f"loses {loss.share:.1%} beside {executor}{quota} at {loss.copy_gbps:.3g} GB/s",
        flush=True,
    )
    return loss
