"""The ranks of one host, over shared memory: microseconds per tick, no server."""

from hicache_ext import _C


class ShmGroup(_C.ShmGroup):
    """One rank of a group whose ranks are processes of this host; see Group for its methods.

    `ShmGroup(name, rank, size, num_lanes, *, deadline_s=30.0)`: all ranks pass the same `name` (1
    to 200 letters, digits, '.', '_', '-'; different for groups that live at the same time), `size`
    and `num_lanes`. The constructor returns when all have met, at most `deadline_s` later. Then the
    name is gone from /dev/shm, so nothing is left behind however the ranks end. Group files are of
    mode 0600.

    AgreementError: a rank does not come in time (named), dies meanwhile, has another size or
    number of lanes (on every rank); the name is in use, of another user or of another version; a
    rank is taken. CapacityError: /dev/shm is full. A segment that a killed group left is replaced,
    or removed by the next group of the same user.

    A peer that dies is noticed within some 20 ms of waiting for it, if pids can be compared
    (same pid namespace); else, and for a peer that hangs, the deadline of result() holds. Peers
    that wait for a rank which closes get an AgreementError at once.
    """

    # The methods are native, with no Python between: a tick is a few microseconds.
    kind = "shm"
    why = ""
