"""After a tick in which lanes differ, every rank names the lane, the ranks, the values and the
first operation that differs, and leaves a file; a post-mortem that fails hides nothing.
"""

import os
import re
import stat
import threading

import pytest
from peers import PUT, SCHEMA, STATE, A, B, C, Peer, dump_of, lanes_of
from together import WaitingGroup, together
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement import TickSchema, unpack
from hicache_ext.agreement.postmortem import Exchange, explain
from hicache_ext.agreement.schema import LaneError
from hicache_ext.oplog import NUM_KEPT, OpKind, OpLog

# Fewer lanes than anything that is gathered.
TINY = TickSchema([], num_slots=1, num_endpoint_lanes=1)


@pytest.fixture(autouse=True)
def dumps(tmp_path, monkeypatch):
    monkeypatch.setenv("HICACHE_DUMP_DIR", str(tmp_path))
    return tmp_path


def texts(lanes, ops=None, **kwargs):
    groups = WaitingGroup.simulated(len(lanes))
    ops = ops or [()] * len(lanes)
    ranks = [Peer(*parts, **kwargs) for parts in zip(groups, lanes, ops, strict=True)]
    said = together(lambda rank: rank.tick(), ranks)
    assert all(isinstance(text, str) for text in said), said
    return said


OTHER = {"digest": 12, "epoch": 4, "schema": TickSchema(["swa"], num_slots=3, num_endpoint_lanes=1)}
UNUSED = "-1 (slot unused)"


@pytest.mark.parametrize(
    ("odd", "name", "values"),
    [
        ({"digest": 12}, "digest", ("11", "12")),
        ({"epoch": 4}, "epoch", ("3", "4")),
        (
            {"schema": OTHER["schema"]},
            "schema",
            (f"{SCHEMA.hash:#x}", f"{OTHER['schema'].hash:#x}"),
        ),
        ({"slots": {}}, "slot[2].op", ("7", UNUSED)),
        ({"slots": {2: STATE._replace(op_id=9)}}, "slot[2].op", ("7", "9")),
        ({"slots": {2: STATE._replace(step=18)}}, "slot[2].step", ("1", "18")),
        ({"slots": {2: STATE, 1: STATE._replace(op_id=8)}}, "slot[1].op", (UNUSED, "8")),
    ],
)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("depth", [0, 1])
def test_every_rank_names_lane_ranks_and_both_values(size, depth, odd, name, values):
    usual = lanes_of(slots={2: STATE})
    lanes = [usual] * (size - 1) + [lanes_of(**{"slots": {2: STATE}, **odd})]
    others = {2: "rank 0", 4: "ranks 0, 1, 2"}[size]
    by_rank = [f"rank {size - 1}: {values[1]}", f"{others}: {values[0]}"]
    if size == 2:
        by_rank.reverse()
    for rank, text in enumerate(texts(lanes, depth=depth)):
        first, second, *_ = text.splitlines()
        assert f"({name}): this rank has {values[rank == size - 1]}" in first
        assert second == f"{name} by rank: {'; '.join(by_rank)}"


@pytest.mark.parametrize("depths", [(0, 1), (1, 0), (1, 0, 1)])
def test_ranks_that_have_not_issued_as_many_ticks_meet(depths):
    """One is in a tick, another at the end of drain()."""
    size = len(depths)
    groups = WaitingGroup.simulated(size)
    ranks = [Peer(g, lanes_of(digest=g.rank), [A], depth=depths[g.rank]) for g in groups]
    by_rank = "; ".join(f"rank {i}: {i}" for i in range(size))
    for text in together(lambda rank: rank.tick(), ranks):
        assert f"\ndigest by rank: {by_rank}\n" in text
        assert "are the same on all ranks" in text


def test_a_rank_that_goes_on_ticking_is_not_believed():
    groups = WaitingGroup.simulated(2)
    ranks = [Peer(g, lanes_of(digest=g.rank), [A]) for g in groups]

    def tick(rank):
        if rank.group.rank == 0:
            return rank.tick()
        for _ in range(4):
            rank.group.issue(rank.lanes)
            answer = rank.group.result(5.0)
        with pytest.raises(LaneError, match=r"\(schema\)"):  # does not take it for a tick
            unpack(SCHEMA, answer, 3, rank.lanes)
        return ""

    text, other = together(tick, ranks)
    assert other == ""
    assert "could not find out more: other ranks go on ticking" in text and "by rank" not in text


def test_what_only_this_rank_sees_is_not_asked_of_the_others():
    mine = lanes_of(epoch=3)
    with pytest.raises(LaneError) as error:
        unpack(SCHEMA, lanes_of(epoch=2), 3, mine)
    (group,) = WaitingGroup.simulated(1)
    group.close()  # whoever uses it now fails
    text = str(explain(error.value, mine, Exchange(group, mine.size, 0, 1.0), OpLog()))
    assert "(epoch): this rank has 3" in text
    assert "could not find out more: the group lost what this rank sent" in text


MANY = [(PUT, i) for i in range(1000)]
FIRST = "first different operation (number {}): {}"


@pytest.mark.parametrize(
    ("mine", "odd", "want"),
    [
        ([A, B, C], [A, C], FIRST.format(1, "rank 0: put 2 pages; rank 1: take 1 pages")),
        ([A, B], [A, B, C], FIRST.format(2, "rank 0: none; rank 1: take 1 pages")),
        ([A, B], [B, A], FIRST.format(0, "rank 0: put 1 pages; rank 1: put 2 pages")),
        ([A, B, C], [A, C, C], FIRST.format(1, "rank 0: put 2 pages; rank 1: take 1 pages")),
        ([], [A], FIRST.format(0, "rank 0: none; rank 1: put 1 pages")),
        ([], [], "are the same on all ranks"),
        ([A, B], [A, B], "are the same on all ranks"),
        (MANY, MANY, "are the same on all ranks"),
        (MANY, [*MANY[:-1], C], FIRST.format(999, "rank 0: put 999 pages; rank 1: take 1 pages")),
        (MANY, MANY[:-1], FIRST.format(999, "rank 0: put 999 pages; rank 1: none")),
        (MANY, [*MANY[:744], C, *MANY[745:]], "(number 744, or one that is no longer kept)"),
        (MANY, [C, *MANY[1:]], "(number 744, or one that is no longer kept)"),
        (MANY, [A], "(number 744, or one that is no longer kept)"),
    ],
)
@pytest.mark.parametrize("schema", [SCHEMA, TINY], ids=["wide", "tiny"])
def test_the_first_different_operation(schema, mine, odd, want):
    lanes = [lanes_of(schema), lanes_of(schema, digest=12)]
    for text in texts(lanes, [mine, odd], schema=schema):
        assert want in text


def test_more_ranks_than_lanes():
    size = TINY.num_lanes + 3
    lanes = [lanes_of(TINY, digest=100 + rank // (size - 2)) for rank in range(size)]
    ops = [[A, B] if rank != 5 else [A, C] for rank in range(size)]
    for text in texts(lanes, ops, schema=TINY):
        assert f"digest by rank: ranks {size - 2}, {size - 1}: 101; ranks 0, 1, 2," in text
        assert "(number 1): rank 5: take 1 pages; ranks 0, 1, 2, 3, 4, 6," in text


def test_long_words_are_cut():
    long = OpKind("a" + "é" * 1000 + "{}")  # in the middle of a letter
    for text in texts([lanes_of(), lanes_of(digest=12)], [[(long, 1)], [A]]):
        assert "rank 0: aéééé" in text and max(map(len, text.splitlines())) < 600


def test_each_rank_leaves_a_file_that_only_its_owner_can_read(dumps):
    odd = [*MANY[:-3], C, *MANY[-2:]]
    said = texts([lanes_of(), lanes_of(digest=12)], [MANY, odd])
    assert len(list(dumps.iterdir())) == 2
    for rank, text in enumerate(said):
        path = dump_of(text)
        assert path.parent == dumps and path.name.startswith(f"hicache-rank{rank}-tick3-")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        lines = path.read_text().splitlines()
        assert lines[:3] == text.splitlines()[:3]
        assert lines[3] == f"rank {rank}, process {os.getpid()}, 1000 operations so far"
        assert len(lines) == 4 + NUM_KEPT
        marked = [line for line in lines[4:] if line.startswith(">")]
        assert len(marked) == 1 and marked[0].startswith("> 997 ")
        assert marked[0].endswith("take 1 pages" if rank else "put 997 pages")


def test_a_folder_that_cannot_be_written_hides_nothing(monkeypatch):
    monkeypatch.setenv("HICACHE_DUMP_DIR", "/proc/nowhere")
    for text in texts([lanes_of(), lanes_of(digest=12)], [[A], [B]]):
        assert "digest by rank: rank 0: 11; rank 1: 12" in text
        assert "(number 0): rank 0: put 1 pages; rank 1: put 2 pages" in text
        assert "could not be written: [Errno 2]" in text and "/proc/nowhere" in text


class Leaving(WaitingGroup):
    """A rank that dies (closes) or hangs in place of its issue number `last`."""

    num_issued = 0

    def issue(self, lanes):
        if self.num_issued == self.last:
            if self.hangs:
                self.others_are_done.wait(LONG_S)
            self.close()
        self.num_issued += 1
        super().issue(lanes)


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("last", [1, 2, 15, 22])  # of the tick and the 26 vectors that follow
def test_a_peer_that_leaves_meanwhile_hides_nothing_and_is_not_waited_for(last, hangs):
    deadline_s = 1.0 if hangs else PATIENCE_S
    groups = WaitingGroup.simulated(3)
    groups[2].__class__, groups[2].last, groups[2].hangs = Leaving, last, hangs
    done = groups[2].others_are_done = threading.Barrier(3)
    lanes = [lanes_of(), lanes_of(), lanes_of(digest=12)]
    ranks = [Peer(*parts, ops=[A]) for parts in zip(groups, lanes, strict=True)]

    def tick(rank):
        text = rank.tick(deadline_s)
        if rank.group.rank != 2 and hangs:
            done.wait(LONG_S)
        return text

    for group, text in zip(groups, together(tick, ranks)[:2], strict=False):
        assert group.in_vain_s <= deadline_s
        assert "tick 3: ranks differ in lane 4 (digest): this rank has 11" in text
        assert re.search(
            r"could not find out more: tick \d+: ranks \[.*2\] have not issued it", text
        )
        assert ("digest by rank: rank 2: 12; ranks 0, 1: 11" in text) == (last > 1)
        assert dump_of(text).read_text().endswith("put 1 pages\n")


def test_a_group_that_brings_back_something_else_is_not_believed():
    class Lying(WaitingGroup):
        def result(self, deadline_s):
            lanes = super().result(deadline_s)
            lanes[2:] -= self.lies
            return lanes

    groups = WaitingGroup.simulated(2)
    for group in groups:
        group.__class__, group.lies = Lying, False
    ranks = [Peer(g, lanes_of(digest=11 + g.rank)) for g in groups]

    def tick(rank):
        rank.group.issue(rank.lanes)
        lanes = rank.group.result(5.0)
        with pytest.raises(LaneError) as error:
            unpack(SCHEMA, lanes, 3, rank.lanes)
        rank.group.lies = True
        exchange = Exchange(rank.group, lanes.size, 0, 5.0)
        return str(explain(error.value, rank.lanes, exchange, rank.log))

    for rank, text in enumerate(together(tick, ranks)):
        assert f"could not find out more: rank {rank} gets back other lanes than it sent" in text
        assert "by rank" not in text
