"""A post-mortem of ranks on several hosts, over the threads that relay between them."""

import time

import pytest
from peers import SCHEMA, A, B, C, Peer, dump_of, lanes_of
from together import on_two_hosts, together
from waiting import LONG_S, PATIENCE_S


@pytest.fixture(autouse=True)
def dumps(tmp_path, monkeypatch):
    monkeypatch.setenv("HICACHE_DUMP_DIR", str(tmp_path))


@pytest.mark.parametrize("depths", [(0, 0), (1, 1), (0, 0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_ranks_of_several_hosts_meet(depths):
    size = len(depths)
    groups = on_two_hosts(size, SCHEMA.num_lanes)
    ranks = [Peer(g, lanes_of(), [A, B], depth=depths[g.rank]) for g in groups]
    ranks[-1] = Peer(groups[-1], lanes_of(digest=12), [A, C], depth=depths[-1])
    others = f"rank{'s' * (size > 2)} {', '.join(map(str, range(size - 1)))}"
    said = together(lambda rank: rank.tick(), ranks)
    for group in groups:
        group.close()
    for text in said:
        for odd, usual in (("12", "11"), ("take 1 pages", "put 2 pages")):
            parts = f"rank {size - 1}: {odd}", f"{others}: {usual}"
            assert "; ".join(parts) in text or "; ".join(parts[::-1]) in text, text


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_rank_of_several_hosts_that_leaves_meanwhile_hides_nothing(victim):
    """The leader of two, the other one, and one that is alone on its host."""
    groups = on_two_hosts(3, SCHEMA.num_lanes)
    ranks = [Peer(g, lanes_of(digest=11 + (g.rank == 2)), [A]) for g in groups]

    def tick(rank):
        if rank.group.rank != victim:
            return rank.tick(LONG_S)
        rank.group.issue(rank.lanes)
        rank.group.result(LONG_S)
        rank.group.close()
        return None

    start = time.monotonic()
    said = together(tick, ranks)
    assert time.monotonic() - start < PATIENCE_S
    for group in groups:
        group.close()
    for text in said[:victim] + said[victim + 1 :]:
        assert "tick 3: ranks differ in lane 4 (digest): this rank has 1" in text, text
        assert "could not find out more: " in text
        assert dump_of(text).read_text().endswith("put 1 pages\n")
