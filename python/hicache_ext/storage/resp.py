"""RESP2, the protocol of Redis and Valkey, on one socket: pages go out of and into their buffers.

A page is never copied on this side of the kernel: sendmsg takes it from where it lies, and
recvmsg_into puts it where it belongs, with the few bytes that follow it in a small buffer.
"""

import select
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .remote_call import SLICE_S, EngineError, Patience

IOV_MAX = 1024
AHEAD_BYTES = 16 << 10  # of short replies that are read at once; no line is longer
PEEK_BYTES = 32  # read with a page: its CRLF and the head of the next reply
MAX_VALUE_BYTES = 512 << 20  # a server's own cap
MAX_REPLY_ITEMS, MAX_REPLY_DEPTH = 1 << 16, 4


class LinkError(EngineError):
    """The connection is of no use any more: lost, or the server does not speak RESP."""


@dataclass(frozen=True)
class Refusal:
    """What the server said instead of an answer: "OOM command not allowed ..."."""

    text: str


# What Link.page_into() says of a value that is there and is no page of ours.
WRONG_LENGTH = "WRONGLENGTH"

Reply = int | bytes | None | Refusal | list["Reply"]


def command(*words: bytes) -> bytes:
    """One request, as a server wants it."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Link:
    """One connection, for one thread at a time. Every wait is under the `patience` of its call.

    Whoever leaves a reply unread, by CallOver or by an error, has to close it.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Owns `sock` from now on, connected; a TLS socket will do."""
        self.patience = Patience(None, 0.0)
        self._sock = sock
        self._poll = select.poll()
        self._ahead = bytearray(AHEAD_BYTES)  # [begin, end): read, and not yet asked for
        self._ahead_view = memoryview(self._ahead)
        self._begin = self._end = 0
        self._is_tls = isinstance(sock, ssl.SSLSocket)  # which has neither of the two calls
        sock.setblocking(not self._is_tls)
        if not self._is_tls:
            # While the kernel itself waits for room it goes on as soon as there is any; poll()
            # comes back when a third of the buffer is empty.
            slice_ = struct.pack("ll", 0, int(1e6 * SLICE_S))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, slice_)

    def close(self) -> None:
        self._sock.close()

    @property
    def is_quiet(self) -> bool:
        """Nothing has come since the last reply: the server has not hung up meanwhile."""
        self._poll.register(self._sock, select.POLLIN)
        return self._begin == self._end and not self._poll.poll(0)

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """All bytes of all parts, each contiguous, from where they are."""
        views = [memoryview(part).cast("B") for part in parts]
        while views:
            _advance(views, self._retry(self._send_some, views[:IOV_MAX], select.POLLOUT))

    def reply(self, depth: int = 0) -> Reply:
        """The next reply. LinkError on anything that is none."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Refusal(rest.decode(errors="replace"))
        number = _integer(line)
        if kind == b":":
            return number
        if number == -1 and kind in (b"$", b"*"):
            return None
        if kind == b"$" and 0 <= number <= AHEAD_BYTES:
            value = bytearray(number)
            self._fill([memoryview(value)])
            self._end_value()
            return bytes(value)
        if kind == b"*" and 0 <= number <= MAX_REPLY_ITEMS and depth < MAX_REPLY_DEPTH:
            return [self.reply(depth + 1) for _ in range(number)]
        raise LinkError(f"a reply that begins with {line[:40]!r}")

    def page_into(self, page: memoryview, trailer: memoryview) -> bool | Refusal:
        """The reply to a GET, its value into the two; False if there is none.

        A value of another length is read over, and a Refusal of WRONG_LENGTH.
        """
        line = self._line()
        if line[:1] == b"-":
            return Refusal(line[1:].decode(errors="replace"))
        num_bytes = _integer(line)
        if line[:1] != b"$" or not -1 <= num_bytes <= MAX_VALUE_BYTES:
            raise LinkError(f"a reply that begins with {line[:40]!r} to a GET")
        if num_bytes == -1:
            return False
        expected = len(page) + len(trailer)
        if num_bytes != expected:
            self._skip(num_bytes)
            return Refusal(f"{WRONG_LENGTH} {num_bytes} bytes, expected {expected}")
        self._fill([page, trailer])
        self._end_value()
        return True

    def _line(self) -> bytes:
        """Up to the next CRLF, without it."""
        while (at := self._ahead.find(b"\r\n", self._begin, self._end)) < 0:
            rest = self._ahead[self._begin : self._end]
            if len(rest) == AHEAD_BYTES:
                raise LinkError(f"a line of more than {AHEAD_BYTES} bytes")
            self._ahead_view[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
            self._end += self._receive([self._ahead_view[len(rest) :]])
        line = bytes(self._ahead_view[self._begin : at])
        self._begin = at + 2
        return line

    def _fill(self, views: list[memoryview]) -> None:
        """The next bytes, whatever they are. A few that follow are kept for the next reply."""
        while views and self._begin < self._end:
            num_bytes = min(len(views[0]), self._end - self._begin)
            views[0][:num_bytes] = self._ahead_view[self._begin : self._begin + num_bytes]
            self._begin += num_bytes
            _advance(views, num_bytes)
        while views:
            self._begin = self._end = 0
            self._end = _advance(views, self._receive([*views, self._ahead_view[:PEEK_BYTES]]))

    def _skip(self, num_bytes: int) -> None:
        nowhere = memoryview(bytearray(min(num_bytes, AHEAD_BYTES)))
        while num_bytes:
            some = nowhere[:num_bytes]
            self._fill([some])
            num_bytes -= len(some)
        self._end_value()

    def _end_value(self) -> None:
        if self._line():
            raise LinkError("a value that does not end where its length says")

    def _receive(self, views: list[memoryview]) -> int:
        num_bytes = self._retry(self._receive_some, views, select.POLLIN)
        if not num_bytes:
            raise LinkError("the server closed the connection")
        return num_bytes

    def _send_some(self, views: list[memoryview]) -> int:
        return self._sock.send(views[0]) if self._is_tls else self._sock.sendmsg(views)

    def _receive_some(self, views: list[memoryview]) -> int:
        if self._is_tls:
            return self._sock.recv_into(views[0])
        return self._sock.recvmsg_into(views, 0, socket.MSG_DONTWAIT)[0]

    def _retry(
        self, call: Callable[[list[memoryview]], int], views: list[memoryview], event: int
    ) -> int:
        """CallOver also where the server is so quick that nobody ever waits."""
        while True:
            wait_s = self.patience.wait_s()
            try:
                return call(views)
            except BlockingIOError:
                self._wait(event, wait_s)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, wait_s)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, wait_s)
            except OSError as error:
                raise LinkError(error.strerror or str(error)) from error

    def _wait(self, event: int, wait_s: float) -> None:
        self._poll.register(self._sock, event)
        self._poll.poll(1e3 * wait_s)


def _advance(views: list[memoryview], num_bytes: int) -> int:
    """Cut so many bytes, and what is empty, off the front; returns how many there were besides."""
    while views and num_bytes >= len(views[0]):
        num_bytes -= len(views.pop(0))
    if views:
        views[0] = views[0][num_bytes:]
        num_bytes = 0
    return num_bytes


def _integer(line: bytes) -> int:
    digits = line[1:]
    if len(digits) > 20 or not digits.removeprefix(b"-").isdigit():
        raise LinkError(f"a reply that begins with {line[:40]!r}")
    return int(digits)
