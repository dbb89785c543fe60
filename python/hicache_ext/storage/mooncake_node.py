"""One storage node of a Mooncake cluster: a process that lends its memory until it is told to end.

python -m hicache_ext.storage.mooncake_node NAME MASTER BYTES PROTOCOL DEVICES, from mooncake_nodes.
"""

import signal
import sys

from .mooncake_client import load_engine


def main(name: str, master: str, node_bytes: str, protocol: str, devices: str) -> None:
    """Says "ready" on stdout once the master has the memory."""
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before the engine starts its threads
    node = load_engine().MooncakeDistributedStore()
    code = node.setup(name, "P2PHANDSHAKE", int(node_bytes), 16 << 20, protocol, devices, master)
    if code != 0:
        sys.exit(f"storage node {name}: setup with the master at {master} returned {code}")
    print("ready", flush=True)
    signal.sigwait(ends)
    node.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
