"""Two machines as two network namespaces: docs/mooncake.md's set-up, and a link that is cut."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from mooncake_tools import need_mooncake

CLI = "from hicache_ext.cli.main import app; app()"
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
READY_S = 30.0


class Machine:
    """A network namespace with one end of a cable."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def run(self, *args: str, **options) -> "subprocess.Popen[str]":
        command = ["ip", "netns", "exec", self.name, sys.executable, *args]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options
        )

    def client(self, what: str) -> str:
        """What mooncake_host.py prints."""
        script = str(Path(__file__).parent / "mooncake_host.py")
        done = self.run(script, f"{FIRST}:50051", self.address, what)
        out, _ = done.communicate(timeout=120)
        assert done.returncode == 0, out
        return out.strip()

    @contextmanager
    def nodes(self, *args: str) -> Iterator[None]:
        served = self.run("-c", CLI, "mooncake", "--host", self.address, "--gib", "0.1", *args)
        try:
            assert served.stdout is not None
            assert served.stdout.readline().startswith(f"master {FIRST}:50051")
            yield
        finally:
            served.terminate()
            served.wait(READY_S)


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    need_mooncake()
    tag = secrets.token_hex(3)
    pair = (Machine(f"hxa{tag}", FIRST), Machine(f"hxb{tag}", SECOND))
    with ExitStack() as stack:
        try:
            for machine in pair:
                ip("netns", "add", machine.name)
                stack.callback(ip, "netns", "del", machine.name)
                ip("-n", machine.name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs root and the ip command, to make network namespaces: {error}")
        ends = [("netns", machine.name) for machine in pair]
        ip("link", "add", "eth0", *ends[0], "type", "veth", "peer", "name", "eth0", *ends[1])
        for machine in pair:
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            ip("-n", machine.name, "link", "set", "eth0", "up")
        yield pair


@pytest.mark.long
def test_two_machines(machines: tuple[Machine, Machine]) -> None:
    first, second = machines
    with first.nodes(), second.nodes("--join", f"{FIRST}:50051"):
        assert first.client("write") == "64 written"
        assert second.client("read") == "64 read"
        assert first.client("copies") == f"copies on {FIRST} and {SECOND}"


@pytest.mark.long
def test_a_machine_that_is_cut_off(machines: tuple[Machine, Machine], monkeypatch) -> None:
    """Nothing comes back from it, not even that its ports are closed."""
    first, second = machines
    with first.nodes(), second.nodes("--join", f"{FIRST}:50051"):
        monkeypatch.setenv("CUT", f"ip -n {second.name} link set eth0 down")
        monkeypatch.setenv("MEND", f"ip -n {second.name} link set eth0 up")
        assert first.client("cut") == "no call took long, the other pages came back"
