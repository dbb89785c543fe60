"""What the ranks find out together once a tick has shown that they differ.

A pair of lanes that is not equal is so for every rank: its smallest and largest value differ, and
no rank has both. So all ranks come here at the same tick, and send through the same group, always
the same number of times:

    1  the value that each rank has in the lane, and how many operations it has done
    2  the hash of its log after each of the last 256 operations: where the ranks parted
    3  the first operation that differs, in words

The group can do no more than MIN; where each rank has lanes of its own, that gathers. Ranks may
have issued another tick meanwhile, not all of them as many. So a vector of this exchange differs
from one of a tick in the lanes of the schema, and where they meet all ranks send theirs again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from hicache_ext.agreement.dump import write_dump
from hicache_ext.agreement.group import DEPTH, Group
from hicache_ext.agreement.schema import NOT_MINE, LaneError, Lanes, show_value
from hicache_ext.errors import AgreementError
from hicache_ext.oplog import NUM_KEPT, OpLog

TEXT_LANES = 64
_FIRST_LANE = 2  # behind the schema, which stands first in a tick of any format
_TEXT_BYTES = 7  # per lane
_NO_OP = -1  # in place of a hash: the rank has not done so many operations


class Exchange:
    """The group of a tick that failed, used to gather."""

    def __init__(self, group: Group, num_lanes: int, num_issued: int, deadline_s: float) -> None:
        """`num_issued`: ticks that this rank has issued and not collected. All that is gathered
        takes `deadline_s` at most.
        """
        self.rank, self.size = group.rank, group.size
        self._group = group
        self._num_lanes = num_lanes
        self._num_issued = num_issued
        self._end_s = time.monotonic() + deadline_s

    def gather(self, row: Sequence[int]) -> list[list[int]]:
        """The rows of all ranks, by rank; of one length everywhere, values below NOT_MINE.

        AgreementError: a rank is late or dead, or sends something else.
        """
        lanes = np.full((self.size, len(row)), NOT_MINE)
        lanes[self.rank] = row
        flat = lanes.reshape(-1)
        step = self._num_lanes - _FIRST_LANE
        for start in range(0, flat.size, step):
            self._reduce(flat[start : start + step])
        if lanes[self.rank].tolist() != list(row):
            raise AgreementError(f"rank {self.rank} gets back other lanes than it sent")
        return lanes.tolist()

    def _reduce(self, part: Lanes) -> None:
        """Replaces `part` by its minimum over all ranks."""
        lanes = np.full(self._num_lanes, NOT_MINE)
        lanes[0] = -1  # a rank that takes this for a tick sees another schema
        lanes[_FIRST_LANE : _FIRST_LANE + part.size] = part
        for _ in range(self._num_issued):
            self._result()
        self._num_issued = 0
        for _ in range(DEPTH + 1):
            self._group.issue(lanes)
            reduced = self._result()
            if reduced[1] == NOT_MINE:  # no rank has sent a tick: there it is ~schema
                part[:] = reduced[_FIRST_LANE : _FIRST_LANE + part.size]
                return
        raise AgreementError("other ranks go on ticking")

    def _result(self) -> Lanes:
        return self._group.result(max(0.0, self._end_s - time.monotonic()))


def explain(error: LaneError, mine: Lanes, exchange: Exchange, log: OpLog) -> AgreementError:
    """What to raise in place of `error`: who differs, since which operation, and where to read on.

    `mine` is what this rank put into the tick. Writes the log of this rank to a file. Whatever
    fails meanwhile is added to the text.
    """
    text, first_op = str(error), None
    try:
        if not error.is_seen_by_all:
            raise AgreementError("the group lost what this rank sent, and no other rank knows")
        facts = exchange.gather([int(mine[error.lane]), log.num_ops, log.first])
        values = [show_value(error.name, value) for value, *_ in facts]
        text += f"\n{error.name} by rank: {_by_rank(values)}"
        start = max(first for *_, first in facts)  # all ranks have kept the operations from there
        first_op = _first_different(exchange, log, start)
        text += f"\n{_describe(exchange, log, start, first_op)}"
    except Exception as failure:  # the first error is the one to raise
        text += f"\nthe ranks could not find out more: {failure}"
    return AgreementError(_with_dump(text, log, exchange.rank, error.epoch, first_op))


def fail_alone(error: BaseException, epoch: int, group: Group, log: OpLog) -> AgreementError:
    """Why this rank ticks no more, after an error of its own half-way through a tick.

    The others have made the whole tick, and will wait for this rank in the next: what they are told
    then is left with the group. Writes the log of this rank to a file.
    """
    text = f"rank {group.rank} failed in tick {epoch}: {error!r}"
    with suppress(AgreementError):  # they find out by themselves that it does not come
        group.note(text)
    return AgreementError(_with_dump(text, log, group.rank, epoch, None))


def _with_dump(text: str, log: OpLog, rank: int, epoch: int, first_op: int | None) -> str:
    try:
        path = write_dump(text, log, rank, epoch, first_op)
        return f"{text}\nthe last operations of this rank ({rank}) are in {path}"
    except OSError as failure:
        return f"{text}\nthe last operations of this rank could not be written: {failure}"


def _first_different(exchange: Exchange, log: OpLog, start: int) -> int | None:
    """The number of the first operation from `start` on that is not the same on all ranks."""
    ops = range(start, start + NUM_KEPT)
    mine = [log.hash_after(op) if op < log.num_ops else _NO_OP for op in ops]
    columns = zip(*exchange.gather(mine), strict=True)
    return next((op for op, column in zip(ops, columns, strict=True) if len(set(column)) > 1), None)


def _describe(exchange: Exchange, log: OpLog, start: int, op: int | None) -> str:
    mine = "none" if op is None or op >= log.num_ops else log.text(op)
    texts = [_from_lanes(row) for row in exchange.gather(_to_lanes(mine))]
    if op is None:
        return "the last operations are the same on all ranks, so what they did is not"
    older = ", or one that is no longer kept" if op == start > 0 else ""
    return f"first different operation (number {op}{older}): {_by_rank(texts)}"


def _by_rank(values: Sequence[str]) -> str:
    """E.g. "rank 1: 5; ranks 0, 2, 3: 7". Those who are few come first."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    groups = sorted(ranks.items(), key=lambda item: len(item[1]))
    return "; ".join(
        f"rank{'s' * (len(who) > 1)} {', '.join(map(str, who))}: {value}" for value, who in groups
    )


def _to_lanes(text: str) -> list[int]:
    num_bytes = TEXT_LANES * _TEXT_BYTES
    padded = text.encode().ljust(num_bytes, b"\0")
    starts = range(0, num_bytes, _TEXT_BYTES)
    return [int.from_bytes(padded[i : i + _TEXT_BYTES], "little") for i in starts]


def _from_lanes(lanes: Sequence[int]) -> str:
    raw = b"".join(lane.to_bytes(8, "little", signed=True)[:_TEXT_BYTES] for lane in lanes)
    return raw.rstrip(b"\0").decode(errors="replace")
