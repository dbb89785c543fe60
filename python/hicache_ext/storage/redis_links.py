"""Where a Redis or Valkey server is, how to get in, and a few connections that are kept."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import StorageError
from .remote_call import CallOver, Patience
from .resp import Link, LinkError, Refusal, command


@dataclass(frozen=True)
class RedisServer:
    """`unix_path`, if given, takes the place of host and port. `tls` is None for plain text."""

    host: str = "127.0.0.1"
    port: int = 6379
    unix_path: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> "RedisServer":
        """redis://[[user]:password@]host[:port][/database], rediss:// for the same over TLS that is
        checked against the system's certificates, unix://[[user]:password@]/path[?db=database].

        StorageError on anything else; no message has the password.
        """
        try:
            return cls._from_url(url)
        except ValueError as error:
            scheme = url.partition("://")[0]
            raise StorageError(f"a {scheme[:10]!r} URL of a Redis server: {error}") from None

    @classmethod
    def _from_url(cls, url: str) -> "RedisServer":
        parts = urlsplit(url)
        user, password = (unquote(p) if p else None for p in (parts.username, parts.password))
        if parts.scheme == "unix":
            database = int(parse_qs(parts.query).get("db", ["0"])[0])
            return cls("", 0, unquote(parts.path), user, password, database)
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("expected redis://, rediss:// or unix://")
        tls = ssl.create_default_context() if parts.scheme == "rediss" else None
        host, database = parts.hostname or "127.0.0.1", int(parts.path.strip("/") or 0)
        return cls(host, parts.port or 6379, None, user, password, database, tls)

    def __str__(self) -> str:
        where = f"unix:{self.unix_path}" if self.unix_path else f"{self.host}:{self.port}"
        return f"{where}/{self.database}"

    def connect(self, patience: Patience) -> Link:
        """A new connection, logged in and at its database; the patience is that of the login.

        LinkError if the server cannot be reached, or does not let us in.
        """
        try:
            link = Link(self._socket(patience))
        except (OSError, ssl.SSLError) as error:
            raise LinkError(f"connect: {error}") from error
        try:
            link.patience = patience
            self._log_in(link)
        except BaseException:
            link.close()
            raise
        return link

    def _socket(self, patience: Patience) -> socket.socket:
        timeout_s = patience.left_s()
        if self.unix_path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            sock = socket.create_connection((self.host, self.port), timeout_s)
        try:
            sock.settimeout(timeout_s)
            if self.unix_path:
                sock.connect(self.unix_path)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return self.tls.wrap_socket(sock, server_hostname=self.host) if self.tls else sock
        except BaseException:
            sock.close()
            raise

    def _log_in(self, link: Link) -> None:
        words = []
        if self.password is not None:
            user = [] if self.username is None else [self.username.encode()]
            words.append([b"AUTH", *user, self.password.encode()])
        if self.database:
            words.append([b"SELECT", b"%d" % self.database])
        words.append([b"PING"])  # a server that wants a password answers this with NOAUTH
        for each in words:
            link.send([command(*each)])
            answer = link.reply()
            if isinstance(answer, Refusal):
                raise LinkError(f"{each[0].decode()}: {answer.text}")


class LinkPool:
    """At most `num_links` connections at a time. A quiet one is taken before a new one is made."""

    def __init__(self, server: RedisServer, num_links: int, connect_timeout_s: float) -> None:
        self._server = server
        self._connect_timeout_s = connect_timeout_s
        self._changed = threading.Condition()
        self._free: list[Link] = []
        self._num_left = num_links

    @contextmanager
    def link(self, patience: Patience) -> Iterator[Link]:
        """For one call. If the block raises, the connection is closed: a reply may be on its way.

        CallOver if none comes free in time; LinkError if a new one cannot be made.
        """
        with self._changed:
            while not self._num_left:
                self._changed.wait(patience.wait_s())
            self._num_left -= 1
        link = None
        try:
            link = self._take() or self._connect(patience)
            link.patience = patience
            yield link
        except BaseException:
            if link is not None:
                link.close()
                link = None
            raise
        finally:
            with self._changed:
                self._num_left += 1
                if link is not None:
                    self._free.append(link)
                self._changed.notify()

    def close(self) -> None:
        """When no call has one any more."""
        with self._changed:
            while self._free:
                self._free.pop().close()

    def _take(self) -> Link | None:
        """One that the server has not closed meanwhile; it may have restarted."""
        while True:
            with self._changed:
                if not self._free:
                    return None
                link = self._free.pop()
            if link.is_quiet:
                return link
            link.close()

    def _connect(self, patience: Patience) -> Link:
        try:
            return self._server.connect(patience.at_most(self._connect_timeout_s))
        except CallOver:
            if patience.is_over:
                raise
            raise LinkError(f"no connection within {self._connect_timeout_s} s") from None
