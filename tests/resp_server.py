"""A server that speaks RESP as a test tells it to: right, wrong, late or not at all."""

import socket
import ssl
import threading
from collections.abc import Callable

from hicache_ext.storage import RedisServer

# What a connection gets for a command; None hangs up, and so does what follows LastWords.
Script = Callable[[list[bytes]], bytes | None]


class LastWords(bytes):
    """An answer that ends its connection."""


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


class RespServer:
    """Lets everybody in and has every key that open() asks for; the rest is up to `script`."""

    def __init__(self, script: Script | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._tls = tls
        self.num_links = 0
        self._values: dict[bytes, bytes] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = RedisServer(port=self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "RespServer":
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # or the thread in accept() keeps it open
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """On everybody who is connected."""
        for sock in self._open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # gone already
        self._open.clear()

    def answer(self, words: list[bytes]) -> bytes:
        """As a real server would."""
        match words:
            case [b"GET", key]:
                return bulk(self._values[key]) if key in self._values else b"$-1\r\n"
            case [b"SET", key, value, b"NX"]:
                is_new = self._values.setdefault(key, value) is value
                return b"+OK\r\n" if is_new else b"$-1\r\n"
            case [b"EXISTS", key]:
                return b":%d\r\n" % (key in self._values)
            case [b"UNLINK", *keys]:
                return b":%d\r\n" % sum(self._values.pop(key, None) is not None for key in keys)
        return b"+PONG\r\n"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.num_links += 1
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as file:
                while head := file.readline():
                    words = [
                        file.read(int(file.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))
                    ]
                    answer = self.script(words) if self.script else self.answer(words)
                    if answer is None:
                        return
                    sock.sendall(answer)
                    if isinstance(answer, LastWords):
                        return
        except (OSError, ValueError):
            return  # the other side has hung up
