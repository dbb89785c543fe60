"""Which group suits the ranks of a process group: one process, one host, or several hosts."""

import hashlib
import logging
import os
import secrets
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicache_ext.agreement.deadline import Countdown
from hicache_ext.agreement.group import Group
from hicache_ext.agreement.hierarchical import HierarchicalGroup
from hicache_ext.agreement.local import LocalGroup
from hicache_ext.agreement.shm import ShmGroup
from hicache_ext.errors import AgreementError

if TYPE_CHECKING:
    from hicache_ext.agreement.torch_group import TorchGroup

KINDS = ("auto", "local", "shm", "hierarchical", "torch")
"""What make_group() can make. NcclGroup is made directly: it needs a stream and a communicator."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SHM = Path("/dev/shm")
_LOG = logging.getLogger("hicache_ext")


def make_group(
    kind: str = "auto",
    *,
    num_lanes: int,
    process_group: Any = None,
    deadline_s: float = 30.0,
) -> Group:
    """The group of this rank for ticks of `num_lanes`; a collective of all ranks.

    `process_group`: a torch.distributed group of any backend with all ranks; None for the default
    one, or for a single rank where torch.distributed is not initialised. One rank gets a
    LocalGroup, whatever `kind` says. Of more, "auto" takes ShmGroup when all share a host (one
    boot, one /dev/shm, one user), TorchGroup when no two do, HierarchicalGroup else. `why` of the
    group says why, and so does the log of rank 0. The ranks meet over gloo in a group of their own,
    for which the store of `process_group` must still be there.

    AgreementError: a kind that does not exist or that these ranks cannot use; ranks that ask for
    different kinds or numbers of lanes, or have not made the group within `deadline_s`.
    """
    if kind not in KINDS:
        raise AgreementError(f"group={kind!r}: want one of {', '.join(KINDS)}")
    meets = _default_group() if process_group is None else process_group
    group: Group = LocalGroup()
    why = "there is one rank"
    if meets is not None and meets.size() > 1:
        group, why = _make(kind, num_lanes, meets, Countdown(deadline_s))
    group.why = why if kind == "auto" else f"group={kind!r} was asked for, and {why}"
    if group.rank == 0:
        _LOG.info("a group of kind %s for %d ranks: %s", group.kind, group.size, group.why)
    return group


def open_group(
    group: Group | str | None, num_lanes: int, deadline_s: float
) -> tuple[Group, Callable[[], None]]:
    """A group, and how its user leaves it: only one that is made here, by its kind, is closed.

    None: a single rank.
    """
    if isinstance(group, str):
        made = make_group(group, num_lanes=num_lanes, deadline_s=deadline_s)
        return made, made.close
    return LocalGroup() if group is None else group, lambda: None


def _default_group() -> Any:
    """None where there is none; then there is one rank, and no need of torch."""
    if "torch" not in sys.modules:
        return None
    import torch.distributed as dist

    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def _make(kind: str, num_lanes: int, process_group: Any, clock: Countdown) -> tuple[Group, str]:
    rank, size = process_group.rank(), process_group.size()
    meeting = _Meeting(process_group.get_group_store(), rank, clock)
    wire = meeting.over_gloo("all", rank, size, num_lanes)
    said = wire.gather((KINDS.index(kind), *_host(), *_random_words()), clock.left_s)
    kinds = [KINDS[words[0]] for words in said]
    if len(set(kinds)) > 1:
        raise AgreementError(f"the ranks ask for different kinds of group: {kinds}, by rank")
    by_host: dict[tuple[int, ...], list[int]] = {}
    for other, words in enumerate(said):
        by_host.setdefault(tuple(words[1:3]), []).append(other)
    hosts = list(by_host.values())
    why = f"{size} ranks are on {len(hosts)} host{'s' if len(hosts) > 1 else ''}"
    kind = _choose(kind, hosts, why)
    if kind == "torch":
        return wire, why
    host_idx, here = next((i, ranks) for i, ranks in enumerate(hosts) if rank in ranks)
    token = "-".join(f"{word:x}" for word in said[here[0]][3:])

    def on_this_host(part: str) -> Group:
        place = (f"{token}-{part}", here.index(rank), len(here), num_lanes)
        return ShmGroup(*place, deadline_s=clock.left_s)

    if kind == "shm":
        return on_this_host("all"), why
    between = None
    if rank == here[0]:
        between = meeting.over_gloo("leaders", host_idx, len(hosts), num_lanes)
    inside, answers = on_this_host("in"), on_this_host("out")
    return HierarchicalGroup(
        inside, answers, between, hosts=hosts, rank=rank, num_lanes=num_lanes
    ), why


class _Meeting:
    """Gloo groups that torch does not know, over the store of a group that it does.

    dist.new_group() would be a collective of all ranks of the job; and its hashed names, which
    need no such collective, differ between ranks that are members of different numbers of groups.
    """

    def __init__(self, store: Any, rank: int, clock: Countdown) -> None:
        # Every rank counts its own meetings: those of one number are one meeting.
        number = store.add(f"hicache/meetings/{rank}", 1)
        self._store, self._prefix, self._clock = store, f"hicache/meeting/{number}", clock

    def over_gloo(self, name: str, rank: int, size: int, num_lanes: int) -> "TorchGroup":
        import torch.distributed as dist

        from hicache_ext.agreement.torch_group import TorchGroup

        store = dist.PrefixStore(  # type: ignore[attr-defined]
            f"{self._prefix}/{name}", self._store
        )
        timeout = timedelta(seconds=max(0.001, self._clock.left_s))  # 0 is no limit
        try:
            gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise AgreementError(
                f"rank {rank} of {size} met nobody over gloo in {self._clock.deadline_s} s: {first}"
            ) from error
        return TorchGroup(gloo, num_lanes=num_lanes, deadline_s=self._clock.left_s, store=store)


def _choose(kind: str, hosts: list[list[int]], why: str) -> str:
    if kind == "auto":
        if len(hosts) == 1:
            return "shm"
        return "torch" if all(len(host) == 1 for host in hosts) else "hierarchical"
    if kind == "local" or (kind == "shm" and len(hosts) > 1):
        raise AgreementError(f"group={kind!r} cannot join {why}: {hosts}")
    return kind


def _host() -> tuple[int, int]:
    """Equal on two ranks if and only if they can share memory by name.

    That takes one kernel, one mount of /dev/shm (containers may have their own) and one user.
    """
    try:
        place = (_BOOT_ID.read_text(), _SHM.stat().st_dev, os.geteuid())
    except OSError:
        return _random_words()  # shares with nobody
    digest = hashlib.blake2b(repr(place).encode(), digest_size=16).digest()
    return _words(digest)


def _random_words() -> tuple[int, int]:
    return _words(secrets.token_bytes(16))


def _words(data: bytes) -> tuple[int, int]:
    """Two non-negative int64 of 16 bytes."""
    first, second = (int.from_bytes(half, "little") >> 1 for half in (data[:8], data[8:]))
    return first, second
