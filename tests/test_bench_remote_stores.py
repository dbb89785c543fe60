"""The benchmarks of the remote stores run in their short form; the figures are not judged."""

import importlib
import importlib.util

import pytest
from net_servers import shared_s3, shared_valkey

SERVERS = {"redis": shared_valkey, "objects": shared_s3}  # skip without the wheels
CLIENTS = {"redis": "redis", "objects": "obstore"}
ROWS = {"redis": ["SET", "GET", "EXISTS"], "objects": ["PUT", "GET"]}


@pytest.mark.parametrize("name", SERVERS)
def test_it_runs(name: str) -> None:
    SERVERS[name]()
    if importlib.util.find_spec(CLIENTS[name]) is None:
        pytest.skip(f"needs its yardstick: pip install {CLIENTS[name]}")
    table = importlib.import_module(f"benchmarks.store_{name}").main(quick=True)
    assert [row.name.split()[1] for row in table.rows] == ROWS[name]
    assert all(row.target == 0.9 and row.figure > 0 for row in table.rows)
