"""The tree benchmark's workload, and that its short form measures all that the long one does."""

from __future__ import annotations

import pytest

from benchmarks import bench_tree, tree_cases
from benchmarks.tree_chat import CORES, Kind, run_chats
from benchmarks.tree_workload import TOKEN_BYTES, ChatWorkload


@pytest.fixture(scope="module")
def small() -> ChatWorkload:
    return ChatWorkload(num_systems=4, chats_per_system=3, num_turns=4, num_active=5)


def test_each_turn_goes_on_where_the_one_before_ended(small: ChatWorkload) -> None:
    assert len(small.requests) == 4 * 3 * 4
    assert small.num_prompt_tokens == sum(r.num_prompt_tokens for r in small.requests)
    ends = [0] * len(small.chats)
    for request in small.requests:
        assert ends[request.chat_idx] < request.num_prompt_tokens < request.num_tokens
        ends[request.chat_idx] = request.num_tokens
    assert ends == [len(chat) // TOKEN_BYTES for chat in small.chats]


def test_chats_share_system_prompts_and_come_in_turns(small: ChatWorkload) -> None:
    starts = [chat[: 256 * TOKEN_BYTES] for chat in small.chats]
    assert {starts.count(start) for start in starts} == {3}
    order = [request.chat_idx for request in small.requests]
    assert order != sorted(order)
    for place, chat_idx in enumerate(order):
        begun = set(order[:place])
        over = {idx for idx in begun if order[:place].count(idx) == 4}
        assert len(begun - over | {chat_idx}) <= 5


def test_the_same_seed_gives_the_same_requests(small: ChatWorkload) -> None:
    again = ChatWorkload(4, 3, 4, 5)
    assert (again.requests, again.chats) == (small.requests, small.chats)
    assert ChatWorkload(4, 3, 4, 5, seed=2).requests != small.requests


@pytest.mark.parametrize("kind", Kind)
def test_cores_hit_the_same_tokens_and_each_call_is_timed(small: ChatWorkload, kind: Kind) -> None:
    runs = [run_chats(small, kind, 16, core, capacity_tokens=70_000) for core in CORES]
    assert len({run.num_hit_tokens for run in runs}) == 1 and runs[0].num_hit_tokens > 0
    for run in runs:
        num_calls = {op: len(times) for op, times in run.times_s.items()}
        assert 0 < num_calls.pop("evict") < len(small.requests)
        assert set(num_calls.values()) == {len(small.requests)}
        assert all(value > 0 for times in run.times_s.values() for value in times)


def test_a_forest_has_the_nodes_and_evicts_one_prompt_at_a_time() -> None:
    forest = tree_cases.Forest(CORES[0], 90)
    assert forest.tree.check_integrity() is None
    nodes = {forest.tree.match_prefix(forest.prompt(i)[0]).node for i in range(80)}
    assert len(nodes) == 80 and forest.num_prompts == 80
    key, _ = forest.prompt(forest.evict())
    assert forest.tree.match_prefix(key).num_tokens == 2 * tree_cases.PAGE_SIZE


def test_short_form() -> None:
    """Whether targets are met is for the long form to say; page keys at page 16 always inform."""
    table = bench_tree.main(quick=True)
    assert table.num_targets >= 40
    assert all(row.figure > 0 for row in table.rows)
    names = [row.name for row in table.rows]
    assert len(names) == len(set(names))
    for what in ("total", "match", "growth", "memory per node", "alloc", "idle tick", "page keys"):
        wanted = "at 2000 nodes" if what == "growth" else what
        assert any(wanted in name for name in names), what
