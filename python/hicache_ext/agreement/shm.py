"""The ranks of one host, over shared memory: microseconds per tick, no server."""

from hicache_ext import _C
from hicache_ext.agreement.group import OneCaller, one_caller
from hicache_ext.agreement.schema import Lanes


class ShmGroup(OneCaller):
    """One rank of a group whose ranks are processes of this host; see Group.

    All ranks pass the same `name` (1 to 200 letters, digits, '.', '_', '-'; different for groups
    that live at the same time), `size` and `num_lanes`. The constructor returns when all have
    met, at most `deadline_s` later. Then the name is gone from /dev/shm, so nothing is left
    behind however the ranks end. Group files are of mode 0600.

    AgreementError: a rank does not come in time (named), dies meanwhile, has another size or
    number of lanes (on every rank); the name is in use, of another user or of another version; a
    rank is taken. CapacityError: /dev/shm is full. A segment that a killed group left is replaced,
    or removed by the next group of the same user.

    A peer that dies is noticed within some 20 ms of waiting for it, if pids can be compared
    (same pid namespace); else, and for a peer that hangs, the deadline of result() holds.
    """

    kind = "shm"

    def __init__(
        self, name: str, rank: int, size: int, num_lanes: int, *, deadline_s: float = 30.0
    ) -> None:
        super().__init__()
        self.rank, self.size = rank, size
        self._native = _C.ShmGroup(name, rank, size, num_lanes)
        try:
            self._native.attach(deadline_s)
        except BaseException:
            self._native.close()  # at once: a traceback would keep the name and the peers waiting
            raise

    @one_caller
    def issue(self, lanes: Lanes) -> None:
        """See Group."""
        self._native.issue(lanes)

    @one_caller
    def ready(self) -> bool:
        """See Group."""
        return self._native.ready()

    @one_caller
    def result(self, deadline_s: float) -> Lanes:
        """See Group."""
        return self._native.result(deadline_s)

    @one_caller
    def note(self, text: str) -> None:
        """See Group."""
        self._native.note(text)

    @one_caller
    def close(self) -> None:
        """See Group. Peers that wait for this rank get an AgreementError at once."""
        self._native.close()
