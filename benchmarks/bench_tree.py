"""The radix tree on a day of chats, against the published figures of a peer's native core.

64 system prompts, 10 240 requests, 57 M prompt tokens, eviction under pressure (tree_workload.py);
then a long prompt, memory, growth, the page ledger, an idle tick and page keys. All times are CPU
seconds of this thread. The peer's figures are tree_peers.py; the other yardsticks are the limits
that this project has set itself.
"""

import sys
from statistics import median

from benchmarks import tree_cases as cases
from benchmarks.bench_keys import rate
from benchmarks.harness import Bound, Row, Table, parse_args
from benchmarks.tree_chat import CAPACITY_TOKENS, CORES, OPS, ChatResult, Kind, run_chats
from benchmarks.tree_peers import (
    CHATS,
    HASH_MTOKENS_PER_S,
    LEDGER_US,
    LONG_PROMPT_US,
    PEER_REQUESTS,
)
from benchmarks.tree_tick import idle_tick
from benchmarks.tree_workload import ChatWorkload
from hicache_ext.keys import page_keys

MAX_MEDIAN_RATIO = 1.25
MAX_PYTHON_RATIO = 0.25
MAX_MATCH_US = {1: 300.0, 32: 300.0, 2048: 4000.0}
MAX_GROWTH = 1.5
MAX_NODE_BYTES, MAX_TOKEN_BYTES = 1100.0, 8.0
MAX_IDLE_US = 30.0
MIN_HASH_MTOKENS_PER_S = 180.0


def at_most(
    table: Table, name: str, figure: float, yardstick: float, unit: str, target: float | None = 1.0
) -> None:
    table.add(Row(name, figure, yardstick, unit, target, Bound.AT_MOST))


def measure_chats(
    table: Table, workload: ChatWorkload, capacity_tokens: int, num_rounds: int
) -> None:
    """The targets are for the first core, the one that a cache takes; the other only informs."""
    share = len(workload.requests) / PEER_REQUESTS
    for (kind, page_size), peer in CHATS.items():

        def run(core: str, kind: Kind = kind, page_size: int = page_size) -> ChatResult:
            return run_chats(workload, kind, page_size, core, capacity_tokens)

        what = f"{kind.value} page {page_size}"
        runs = [run(CORES[0]) for _ in range(num_rounds)]
        total_s, peer_s = median(run.total_s for run in runs), peer.total_s * share
        at_most(table, f"{what}: total", total_s, peer_s, "s")
        name = f"{what}: total vs the peer's Python core"
        at_most(table, name, total_s, peer.python_total_s * share, "s", MAX_PYTHON_RATIO)
        for op in OPS:
            figure = median(run.median_us(op) for run in runs)
            at_most(table, f"{what}: {op}", figure, peer.medians_us[op], "us", MAX_MEDIAN_RATIO)
        for core in CORES[1:]:
            at_most(table, f"{what}: total, {core} core", run(core).total_s, peer_s, "s", None)
        hit_rate = runs[0].num_hit_tokens / workload.num_prompt_tokens
        print(f"{what}: hit rate {hit_rate:.4f}", flush=True)


def measure_long_prompt(table: Table, max_nodes: int, num_rounds: int) -> None:
    for num_nodes, peer_us in LONG_PROMPT_US.items():
        if num_nodes > max_nodes:
            continue
        taken_s = cases.long_prompt(CORES[0], num_nodes, num_rounds)
        what = f"128k prompt over {num_nodes} nodes"
        at_most(table, f"{what}: match", taken_s["match"] * 1e6, MAX_MATCH_US[num_nodes], "us")
        for op in peer_us:
            figure, name = taken_s[op] * 1e6, f"{what}: {op} vs the peer"
            at_most(table, name, figure, peer_us[op], "us", None)


def measure_growth(table: Table, sizes: tuple[int, int], num_rounds: int) -> None:
    small, large = (cases.grown(CORES[0], size, num_rounds) for size in sizes)
    for op in small:
        name = f"{op} at {sizes[1]} nodes vs at {sizes[0]}"
        at_most(table, name, large[op] * 1e6, small[op] * 1e6, "us", MAX_GROWTH)


def measure_memory(table: Table, num_nodes: int, num_tokens: int) -> None:
    per_node = cases.in_own_process(cases.bytes_per_node, CORES[0], num_nodes)
    at_most(table, "memory per node, short edges", per_node, MAX_NODE_BYTES, "B")
    per_token = cases.in_own_process(cases.bytes_per_token, CORES[0], num_tokens)
    at_most(table, "memory per cached token, long edges", per_token, MAX_TOKEN_BYTES, "B")


def measure_ledger(table: Table, num_rounds: int) -> None:
    small, large = (cases.ledger(size, num_rounds) for size in (64_000, 4_000_000))
    for op, peer_us in LEDGER_US.items():
        name = f"{op} 64 pages: pool of 4 M tokens vs of 64 k"
        at_most(table, name, large[op] * 1e6, small[op] * 1e6, "us", MAX_GROWTH)
        at_most(table, f"{op} 64 pages vs the peer's", large[op] * 1e6, peer_us, "us")


def measure_keys(table: Table, num_tokens: int) -> None:
    tokens = bytes(range(256)) * (num_tokens * 4 // 256)
    for page_size, target in ((16, None), (64, 1.0)):
        measure = rate(lambda size=page_size: page_keys(tokens, size), num_tokens)
        figure, name = median(measure() for _ in range(7)), f"page keys at page {page_size}"
        table.add(Row(name, figure, MIN_HASH_MTOKENS_PER_S, "Mtok/s", target))
    table.add(Row("page keys at page 64 vs the peer's", figure, HASH_MTOKENS_PER_S, "Mtok/s"))


def main(quick: bool) -> Table:
    workload = ChatWorkload(8, 4) if quick else ChatWorkload()
    capacity_tokens = 100_000 if quick else CAPACITY_TOKENS
    title = f"{len(workload.requests)} requests, {workload.num_prompt_tokens} prompt tokens"
    table = Table(f"radix tree: {title}")
    measure_chats(table, workload, capacity_tokens, 1 if quick else 3)
    measure_long_prompt(table, 32 if quick else 2048, 3 if quick else 31)
    measure_growth(table, (500, 2000) if quick else (1000, 1_000_000), 50 if quick else 4000)
    measure_memory(table, 2000 if quick else 200_000, 200_000 if quick else 8_000_000)
    measure_ledger(table, 20 if quick else 2000)
    idle_us = idle_tick(128, 50 if quick else 2000) * 1e6
    at_most(table, "idle tick, 128 requests in flight", idle_us, MAX_IDLE_US, "us")
    measure_keys(table, 8192 if quick else 131_072)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "bench_tree"))
