"""A door before the S3 service of the tests: it counts requests, breaks some, and answers a range
with 206 as S3 does, where rclone 1.75 says 200.
"""

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class S3Door:
    """Passes everything on to `port` on loopback, unless `refuse(method, path)` gives a status."""

    def __init__(self, port: int) -> None:
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                door.requests.append((self.command, self.path, self.headers.get("Range")))
                status = door.refuse(self.command, self.path)
                if status is not None:
                    self.answer(status, {}, b"")
                    return
                inner = http.client.HTTPConnection("127.0.0.1", port)
                inner.request(self.command, self.path, body, dict(self.headers))
                reply = inner.getresponse()
                is_part = reply.status == 200 and reply.getheader("Content-Range")
                self.answer(206 if is_part else reply.status, dict(reply.headers), reply.read())
                inner.close()

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                own = {"content-length", "transfer-encoding", "connection", "date", "server"}
                for name, value in headers.items():
                    if name.lower() not in own:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: pytest shows what is said."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def gets(self) -> list[str | None]:
        """The ranges of the data objects that were asked for since the last call."""
        asked = [r for method, path, r in self.requests if method == "GET" and "/data/" in path]
        self.requests.clear()
        return asked

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
