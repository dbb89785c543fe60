"""A client on one of two machines, for test_mooncake_hosts.py: MASTER HOST WHAT."""

import os
import random
import subprocess
import sys
import time

from hicache_ext.errors import StoreTimeout
from hicache_ext.storage import MooncakeClient, MooncakeStore, StoreNamespace

PAGE_BYTES = 256 << 10
NUMBERS = range(64)
SPACE = StoreNamespace("model", "rev", "float32", {"num_layers": 2}, 16, "0/1")
KEYS = [random.Random(n).randbytes(32) for n in NUMBERS]
PAGES = [random.Random(-n - 1).randbytes(PAGE_BYTES) for n in NUMBERS]


def write(store: MooncakeStore) -> int:
    return sum(store.write_from("full", KEYS, [memoryview(page) for page in PAGES]))


def read(store: MooncakeStore) -> int:
    """How many came; none is wrong."""
    buffers = [bytearray(PAGE_BYTES) for _ in NUMBERS]
    found = store.read_into("full", KEYS, [memoryview(b) for b in buffers])
    assert all(b == p for b, p, ok in zip(buffers, PAGES, found, strict=True) if ok)
    return sum(found)


def copies(client: MooncakeClient) -> str:
    names = [f"{SPACE.digest()}/full/{key.hex()}" for key in KEYS]
    replicas = client.engine.batch_get_replica_desc(names)
    ends = {
        r.get_memory_descriptor().buffer_descriptor.transport_endpoint.partition(":")[0]
        for some in replicas.values()
        for r in some
    }
    return "copies on " + " and ".join(sorted(ends))


def cut(store: MooncakeStore) -> str:
    """The other machine has part of the pages; calls that hang hold theirs until it is back."""
    assert write(store) == len(NUMBERS)
    subprocess.run(os.environ["CUT"].split(), check=True)
    late, num_read, end_s = [], 0, time.monotonic() + 60
    while num_read == 0 and time.monotonic() < end_s:
        begin_s = time.monotonic()
        try:
            num_read = read(store)
        except StoreTimeout as error:
            late.append(error)
        assert time.monotonic() - begin_s < 8
        time.sleep(0.5)
    assert late and not late[0].wait(0.0)
    assert 0 < num_read < len(NUMBERS)
    assert write(store) == len(NUMBERS)  # what was lost, on the node that is left
    assert read(store) == len(NUMBERS)
    subprocess.run(os.environ["MEND"].split(), check=True)
    assert all(error.wait(60.0) for error in late)
    return "no call took long, the other pages came back"


def main(master: str, host: str, what: str) -> None:
    client = MooncakeClient(master, host=host)
    store = MooncakeStore(client, {"full": SPACE}, {"full": PAGE_BYTES})
    says = {
        "write": lambda: f"{write(store)} written",
        "read": lambda: f"{read(store)} read",
        "copies": lambda: copies(client),
        "cut": lambda: cut(store),
    }
    print(says[what]())
    store.close()
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
