"""How NcclGroup starts: libnccl, a communicator over a store, and what the ranks must agree on."""

import importlib.util
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from hicache_ext import _C
from hicache_ext.agreement.deadline import Bounded, Countdown
from hicache_ext.errors import AgreementError, CudaError

_T = TypeVar("_T")
_LAST_S = 0.05  # past a deadline, to ask a store who has not come


def open_library(path: str | None = None) -> _C.NcclLibrary:
    """libnccl, from `path`, or the one that is loaded (by torch), installed, or in its wheel.

    CudaError when there is none.
    """
    if path is not None:
        return _C.NcclLibrary(path)
    try:
        return _C.NcclLibrary()
    except CudaError:
        in_wheel = _wheel_library()
        if in_wheel is None:
            raise
        return _C.NcclLibrary(str(in_wheel))


def _wheel_library() -> Path | None:
    try:
        spec = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        return None
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = [Path(folder) / "lib/libnccl.so.2" for folder in folders]
    return next((library for library in found if library.exists()), None)


def comm_over_store(
    library: _C.NcclLibrary, store: Any, rank: int, size: int, device: int, clock: Countdown
) -> _C.NcclComm:
    """A communicator of `size` ranks that meet over `store`; the caller ends it.

    AgreementError: a rank does not come in time (named), or the store does not answer.
    """
    if not 0 <= rank < size:
        raise AgreementError(f"rank={rank} not in [0, {size})")
    meeting = _Meeting(store, rank, size, clock)
    comm = _C.NcclComm(library, meeting.share(library.make_id), rank, size, device)
    try:
        if comm.wait(clock.left_s):
            return comm
        raise AgreementError(
            f"rank {rank} of {size}: all ranks have come, but NCCL does not connect them in "
            f"{clock.deadline_s} s"
        )
    except BaseException:
        comm.abort()
        raise


class _Meeting:
    """Ranks that find each other in a store: one key for each, and what rank 0 has to say."""

    def __init__(self, store: Any, rank: int, size: int, clock: Countdown) -> None:
        self._store, self._rank, self._size, self._clock = store, rank, size, clock
        # Every rank counts its own meetings: those of one number are one meeting.
        number = self._ask(lambda: store.add(f"hicache/nccl/meetings/{rank}", 1))
        self._prefix = f"hicache/nccl/{number}/"

    def share(self, make: Callable[[], bytes]) -> bytes:
        """What `make` returns on rank 0, when all ranks are there."""
        store, word = self._store, f"{self._prefix}id"
        if self._rank == 0:
            made = make().hex()
            self._ask(lambda: store.set(word, made))
        self._ask(lambda: store.set(self._key(self._rank), "here"))
        for key in (*map(self._key, range(self._size)), word):
            self._wait(key)
        return bytes.fromhex(self._ask(lambda: store.get(word)).decode())

    def _key(self, rank: int) -> str:
        return f"{self._prefix}here/{rank}"

    def _wait(self, key: str) -> None:
        # A store takes 0 for no limit.
        limit = timedelta(seconds=max(0.001, self._clock.left_s))
        try:
            Bounded(lambda: self._store.wait([key], limit), "hicache-nccl").result(
                self._clock.left_s + _LAST_S
            )
        except (RuntimeError, TimeoutError) as error:
            is_late = self._clock.left_s <= _LAST_S
            why = self._describe_absent() if is_late else self._describe_failure(error)
            raise AgreementError(why) from error

    def _describe_absent(self) -> str:
        here = f"rank {self._rank} of {self._size}"
        try:
            absent = Bounded(self._absent, "hicache-nccl").result(_LAST_S)
        except (RuntimeError, TimeoutError):
            return f"{here}: the store has no answer after {self._clock.deadline_s} s"
        return f"{here}: absent ranks: {absent} after {self._clock.deadline_s} s"

    def _absent(self) -> list[int]:
        ranks = range(self._size)
        return [rank for rank in ranks if not self._store.check([self._key(rank)])]

    def _ask(self, call: Callable[[], _T]) -> _T:
        try:
            return Bounded(call, "hicache-nccl").result(self._clock.left_s)
        except (RuntimeError, TimeoutError) as error:
            raise AgreementError(self._describe_failure(error)) from error

    def _describe_failure(self, error: Exception) -> str:
        first = (str(error) or repr(error)).splitlines()[0]
        return f"rank {self._rank} of {self._size}: the store fails, or has no answer: {first}"


def require_equal(what: str, values: Sequence[object]) -> None:
    """AgreementError with the value of each rank if they differ."""
    if len(set(values)) > 1:
        raise AgreementError(f"ranks have different {what}: {list(values)}, by rank")
