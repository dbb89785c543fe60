"""A Mooncake master and storage nodes as child processes, which end with this one."""

import contextlib
import importlib.util
import selectors
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ..errors import StorageError
from .ports import free_port

_ENDS = {signal.SIGINT, signal.SIGTERM}
_NODE = "hicache_ext.storage.mooncake_node"
# 1 is PR_SET_PDEATHSIG: the kernel kills the child when this process ends, however it does.
_LAUNCH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)


class MooncakeNodes:
    """A context manager. `master` is the address to give to MooncakeClient.

    To be made on a thread that lives as long as the processes shall.
    """

    def __init__(
        self,
        *,
        num_nodes: int = 1,
        node_bytes: int = 2 << 30,
        host: str = "127.0.0.1",
        port: int = 0,
        join: str | None = None,
        protocol: str = "tcp",
        devices: str = "",
        client_ttl_s: int = 10,
        log_folder: Path | None = None,
        ready_s: float = 30.0,
    ) -> None:
        """A master on host:port (0: a free one) with `num_nodes` storage nodes of `node_bytes` of
        memory each; with `join`, the address of a master elsewhere, only the nodes.

        `host` is the address by which other machines reach this one. After `client_ttl_s` without
        a sign of life the master forgets a node and its pages. Logs go to `log_folder`, else to
        stderr. StorageError, and nothing is left running, if one is not ready after `ready_s`.
        """
        self.master = join or f"{host}:{port or free_port(host)}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._host = host
        self._metrics_port = free_port(host)
        self._node_args = [str(node_bytes), protocol, devices]
        self._client_ttl_s = client_ttl_s
        self._log_folder = log_folder
        self._ready_s = ready_s
        self._master: subprocess.Popen[bytes] | None = None
        try:
            if join is None:
                self.start_master()
            for _ in range(num_nodes):
                self.start_node()
        except BaseException:
            self.close()
            raise

    def start_master(self) -> None:
        """Also anew, at the same address, after kill_master()."""
        port = self.master.rpartition(":")[2]
        self._master = self._launch(
            "master",
            [
                str(_master_path()),
                f"--rpc_address={self._host}",
                f"--rpc_port={port}",
                f"--metrics_host={self._host}",
                f"--metrics_port={self._metrics_port}",
                f"--client_ttl={self._client_ttl_s}",
                "--logtostderr",
            ],
        )
        health = f"http://{self._host}:{self._metrics_port}/health"
        end_s = time.monotonic() + self._ready_s
        while not _answers(health):
            if self._master.poll() is not None or time.monotonic() > end_s:
                raise StorageError(f"the Mooncake master at {self.master} does not get ready")
            time.sleep(0.05)

    def start_node(self) -> int:
        """One more storage node; its place in `nodes`."""
        name = f"{self._host}:{free_port(self._host)}"
        args = [sys.executable, "-m", _NODE, name, self.master, *self._node_args]
        node = self._launch(f"node-{len(self.nodes)}", args)
        self.nodes.append(node)
        assert node.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(node.stdout, selectors.EVENT_READ)
            if not selector.select(self._ready_s) or node.stdout.readline() != b"ready\n":
                raise StorageError(f"storage node {name} did not join {self.master}")
        return len(self.nodes) - 1

    def kill_master(self) -> None:
        """By SIGKILL, as a crash; the cluster forgets every page."""
        assert self._master is not None
        _end(self._master, signal.SIGKILL)

    def kill_node(self, node_idx: int) -> None:
        """By SIGKILL, as a crash; its pages are lost."""
        _end(self.nodes[node_idx], signal.SIGKILL)

    def check(self) -> None:
        """StorageError if one of them has ended."""
        running = {"master": self._master} if self._master is not None else {}
        running |= {f"node {i}": node for i, node in enumerate(self.nodes)}
        for name, process in running.items():
            if process.poll() is not None:
                raise StorageError(f"Mooncake {name} ended with code {process.returncode}")

    def close(self) -> None:
        """The nodes tell the master that they go, which takes them a second."""
        for node in self.nodes:
            node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            _end(node, signal.SIGTERM)
        if self._master is not None:
            _end(self._master, signal.SIGKILL)

    def __enter__(self) -> "MooncakeNodes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self, name: str, args: Sequence[str]) -> "subprocess.Popen[bytes]":
        stderr = None
        if self._log_folder is not None:
            stderr = open(self._log_folder / f"{name}.log", "ab")  # noqa: SIM115
        try:
            command = [sys.executable, "-c", _LAUNCH, *args]
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )
        finally:
            if stderr is not None:
                stderr.close()


def _master_path() -> Path:
    spec = importlib.util.find_spec("mooncake")
    if spec is None or spec.origin is None:
        raise StorageError("no Mooncake here: pip install 'hicache_ext[mooncake]'")
    return Path(spec.origin).parent / "mooncake_master"


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1.0) as answer:
        return bool(answer.status == 200)
    return False


def _end(process: "subprocess.Popen[bytes]", how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def serve(nodes: MooncakeNodes) -> None:
    """Until SIGINT or SIGTERM; StorageError if one of the processes ends before."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    with nodes:
        print(f"master {nodes.master}, storage nodes here: {len(nodes.nodes)}", flush=True)
        while signal.sigtimedwait(_ENDS, 1.0) is None:
            nodes.check()
