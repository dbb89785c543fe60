"""A Mooncake cluster on loopback that the tests share, and stores on it."""

import atexit
import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex

import pytest

from hicache_ext.errors import StorageError
from hicache_ext.storage import MooncakeClient, MooncakeStore, StoreNamespace
from hicache_ext.storage.mooncake_client import load_engine
from hicache_ext.storage.mooncake_nodes import MooncakeNodes

TTL_S = 2  # after which the master gives up a node that is dead
_until_exit = ExitStack()
atexit.register(_until_exit.close)
os.environ.setdefault("GLOG_minloglevel", "2")


def need_mooncake() -> None:
    try:
        load_engine()
    except StorageError as error:
        pytest.skip(str(error))


@contextmanager
def cluster(num_nodes: int = 2, node_bytes: int = 256 << 20) -> Iterator[MooncakeNodes]:
    """Killed at the end, which is quicker than to let it close."""
    need_mooncake()
    with tempfile.TemporaryDirectory() as logs:
        nodes = MooncakeNodes(
            num_nodes=num_nodes,
            node_bytes=node_bytes,
            client_ttl_s=TTL_S,
            log_folder=Path(logs),
        )
        try:
            yield nodes
        finally:
            for node_idx in range(len(nodes.nodes)):
                nodes.kill_node(node_idx)
            nodes.close()


@functools.cache
def shared_nodes() -> MooncakeNodes:
    """For tests that end none of its processes."""
    return _until_exit.enter_context(cluster())


@functools.cache
def shared_client() -> MooncakeClient:
    client = MooncakeClient(shared_nodes().master)
    _until_exit.callback(client.close)
    return client


def make_store(client: MooncakeClient, page_bytes: int = 4096, **options) -> MooncakeStore:
    """One pool, "full", in a namespace that no other store knows."""
    namespace = StoreNamespace("model", token_hex(), "float32", {"num_layers": 2}, 16, "0/1")
    return MooncakeStore(client, {"full": namespace}, {"full": page_bytes}, **options)
