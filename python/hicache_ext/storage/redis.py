"""RedisStore: pages in Redis or Valkey, written and read straight from and into the caller's."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ..errors import StorageError
from ..keys import page_checksum
from .breaker import CircuitBreaker
from .namespace import StoreNamespace
from .protocol import Capabilities
from .redis_links import LinkPool, RedisServer
from .remote import RemotePart, RemotePool, RemoteStore
from .remote_call import EngineError, Patience
from .resp import MAX_VALUE_BYTES, WRONG_LENGTH, Link, LinkError, Refusal, Reply, command

CHECKSUM_BYTES = 16
WAITING_BYTES = 8 << 20  # of values that go out at once, and are unanswered when the next do
NUM_SHORT = 512  # commands without a value, likewise
NUM_PROBES = 16  # keys that are asked for at open: one node of a cluster does not have them all
_WRONG_VALUE = (WRONG_LENGTH, "WRONGTYPE")


class RedisStore(RemoteStore):
    """One value per page: [page | its XXH3-128, seeded by the key], under
    hicache:1:<namespace digest>:<pool>:<key>, both in hex. Needs no package; one server or primary
    with its replicas, no cluster mode.

    A batch is one pipeline on one of at most `num_links` connections, with up to 16 MiB in flight.
    Written with SET NX: the first value stays. Nothing expires; what the server evicts is a miss,
    so give it `maxmemory` and an `allkeys` policy. A page that fails its checksum is unlinked.
    """

    capabilities = Capabilities(
        zero_copy=True, atomic_batch=False, quota=False, persistent=True, shared=True
    )

    def __init__(
        self,
        server: RedisServer | str,
        namespaces: Mapping[str, StoreNamespace],
        page_bytes: Mapping[str, int],
        *,
        num_links: int = 4,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 1.0,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """`server`: where it is, or a URL for RedisServer.from_url().

        StorageError if it cannot be reached now, does not let us in, or does not answer about our
        keys (it is still loading, or a node of a cluster).
        """
        if isinstance(server, str):
            server = RedisServer.from_url(server)
        super().__init__(str(server), namespaces, page_bytes, timeout_s=timeout_s, breaker=breaker)
        if num_links < 1 or not connect_timeout_s > 0:
            raise StorageError(
                f"num_links={num_links}, connect_timeout_s={connect_timeout_s}: too small"
            )
        for pool, held in self._pools.items():
            if held.page_bytes + CHECKSUM_BYTES > MAX_VALUE_BYTES:
                raise StorageError(f"pool {pool!r}: page_bytes={held.page_bytes}, too large")
        self._links = LinkPool(server, num_links, connect_timeout_s)
        self._prefixes = {
            pool: f"hicache:1:{held.digest}:{pool}:".encode() for pool, held in self._pools.items()
        }
        self._command("open", self._probe)

    def _exists(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        refusals: list[Refusal] = []
        items = _items(parts)

        def take(position: int) -> None:
            answer = link.reply()
            if isinstance(answer, Refusal):
                refusals.append(answer)
            else:
                part, i = items[position]
                part.results[i] = _number(answer) == 1

        with self._links.link(patience) as link:
            asks = [command(b"EXISTS", self._name(part, i)) for part, i in items]
            _pipeline(link, _groups(asks, NUM_SHORT), NUM_SHORT, take)
        self._judge(refusals, len(items))

    def _read(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        trailer = memoryview(bytearray(CHECKSUM_BYTES))
        refusals: list[Refusal] = []
        broken: list[bytes] = []
        items = _items(parts)
        names = [self._name(part, i) for part, i in items]

        def take(position: int) -> None:
            part, i = items[position]
            answer = link.page_into(part.pages[i], trailer)
            if answer is True:
                part.results[i] = page_checksum(part.keys[i], part.pages[i]) == trailer
            elif isinstance(answer, Refusal) and not answer.text.startswith(_WRONG_VALUE):
                refusals.append(answer)
                return
            if answer and not part.results[i]:
                broken.append(names[position])

        with self._links.link(patience) as link:
            num_waiting = _num_waiting(parts)
            asks = [command(b"GET", name) for name in names]
            _pipeline(link, _groups(asks, num_waiting), num_waiting, take)
            if broken:
                self._count("num_corrupt_pages", len(set(broken)))
                _unlink(link, broken)  # or the first value would stay for ever
        self._judge(refusals, len(items))

    def _write(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        refusals: list[Refusal] = []
        items = _items(parts)

        num_at_once = _num_waiting(parts)

        def commands() -> Iterator[tuple[int, list[bytes | memoryview]]]:
            for first in range(0, len(items), num_at_once):
                if refusals:
                    return  # the server is full, or a replica: it will not take the others either
                some = items[first : first + num_at_once]
                yield len(some), [words for item in some for words in self._set(*item)]

        def take(position: int) -> None:
            answer = link.reply()
            if isinstance(answer, Refusal):
                refusals.append(answer)
                return
            if answer not in (b"OK", None):
                raise LinkError(f"{str(answer)[:40]!r} in answer to SET")
            part, i = items[position]
            part.results[i] = True
            part.are_new[i] = answer is not None  # else there is one already

        try:
            with self._links.link(patience) as link:
                _pipeline(link, commands(), num_at_once, take)
        finally:
            for part in parts:
                num_new = sum(part.are_new)
                self._count("num_written_pages", num_new)
                self._count("written_bytes", num_new * part.pool.page_bytes)
                self._count("num_pages", num_new)
        self._note(refusals)  # and no more: a full server, or a replica, is still read from

    def _set(self, part: RemotePart, i: int) -> list[bytes | memoryview]:
        """The page as it lies, between what makes a command of it."""
        name, page = self._name(part, i), part.pages[i]
        num_bytes = len(page) + CHECKSUM_BYTES
        head = b"*4\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, num_bytes)
        return [head, page, page_checksum(part.keys[i], page) + b"\r\n$2\r\nNX\r\n"]

    def _remove(self, pool: RemotePool, keys: Sequence[bytes], patience: Patience) -> int:
        with self._links.link(patience) as link:
            prefix = self._prefixes[pool.name]
            num_removed = _unlink(link, [prefix + key.hex().encode() for key in keys])
        self._forget(num_removed)
        return num_removed

    def _clear(self, patience: Patience) -> int:
        """By name, so it takes a look at every key of the database."""
        num_removed = 0
        with self._links.link(patience) as link:
            for prefix in self._prefixes.values():
                cursor = b"0"
                while True:
                    link.patience = Patience(None, self._timeout_s)  # for each round
                    pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix) + b"*"
                    link.send([command(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")])
                    cursor, names = _scanned(link.reply())
                    num_removed += _unlink(link, names)
                    if cursor == b"0":
                        break
        self._forget(num_removed)
        return num_removed

    def _release(self) -> None:
        self._links.close()

    def _probe(self, patience: Patience) -> int:
        """EngineError if the server does not answer about keys of ours."""
        with self._links.link(patience) as link:
            for prefix in self._prefixes.values():
                for i in range(NUM_PROBES):
                    link.send([command(b"EXISTS", prefix + b"probe%d" % i)])
                    _number(link.reply())
        return 0

    def _name(self, part: RemotePart, i: int) -> bytes:
        return self._prefixes[part.pool.name] + part.keys[i].hex().encode()

    def _judge(self, refusals: Sequence[Refusal], num_answers: int) -> None:
        """EngineError if the server refused everything."""
        self._note(refusals)
        if len(refusals) == num_answers:
            raise EngineError(refusals[0].text)

    def _note(self, refusals: Sequence[Refusal]) -> None:
        if refusals:
            self._count("num_refused_pages", len(refusals))
            self.last_error = refusals[0].text

    def _forget(self, num_pages: int) -> None:
        """Some of them may have been others' pages."""
        with self._lock:
            self._counters["num_pages"] = max(0, self._counters["num_pages"] - num_pages)


def _pipeline(
    link: Link,
    groups: Iterable[tuple[int, Sequence[bytes | memoryview]]],
    num_waiting: int,
    take: Callable[[int], None],
) -> None:
    """Send each group of (number of commands, their bytes); `take` reads the reply to each command.

    The next group is sent when no more than `num_waiting` commands are unanswered.
    """
    num_sent = num_taken = 0
    for num_commands, parts in groups:
        link.send(parts)
        num_sent += num_commands
        while num_sent - num_taken > num_waiting:
            take(num_taken)
            num_taken += 1
    for position in range(num_taken, num_sent):
        take(position)


def _groups(commands: Sequence[bytes], size: int) -> Iterator[tuple[int, list[bytes]]]:
    for first in range(0, len(commands), size):
        some = commands[first : first + size]
        yield len(some), [b"".join(some)]


def _items(parts: Sequence[RemotePart]) -> list[tuple[RemotePart, int]]:
    """(part, position in it) of each key of all parts."""
    return [(part, i) for part in parts for i in range(len(part.keys))]


def _num_waiting(parts: Sequence[RemotePart]) -> int:
    most_bytes = max(part.pool.page_bytes for part in parts)
    return max(1, min(NUM_SHORT, WAITING_BYTES // most_bytes))


def _unlink(link: Link, names: Sequence[bytes]) -> int:
    """How many were there. EngineError if the server refuses, being a replica."""
    num_removed = 0
    for first in range(0, len(names), NUM_SHORT):
        link.send([command(b"UNLINK", *names[first : first + NUM_SHORT])])
        num_removed += _number(link.reply())
    return num_removed


def _number(answer: Reply) -> int:
    if isinstance(answer, Refusal):
        raise EngineError(answer.text)
    if not isinstance(answer, int):
        raise LinkError(f"{str(answer)[:40]!r} in place of a number")
    return answer


def _scanned(answer: Reply) -> tuple[bytes, list[bytes]]:
    """The next cursor and some names."""
    if isinstance(answer, Refusal):
        raise EngineError(answer.text)
    match answer:
        case [bytes(cursor), [*names]]:
            return cursor, [name for name in names if isinstance(name, bytes)]
    raise LinkError(f"{str(answer)[:40]!r} in answer to SCAN")
