"""One suite for every group: simulated, shared memory, gloo, hosts of several ranks, auto."""

import random
import re
import time

import numpy as np
import pytest
from group_backends import (
    NUM_LANES,
    NUM_SLOTS,
    PARAMS,
    POOLS,
    PROCESS_PARAMS,
    all_ranks,
    errors_of,
    finish_all,
    make_backend,
    tick,
)
from waiting import PATIENCE_S, wait_for

from hicache_ext.agreement import NOT_MINE, LocalGroup, ShmGroup, SlotState
from hicache_ext.errors import AgreementError


@pytest.fixture(scope="module", params=PARAMS)
def backend(request, tmp_path_factory):
    backend = make_backend(request.param, tmp_path_factory.mktemp("groups"))
    yield backend
    backend.stop()


needs_processes = pytest.mark.parametrize("backend", PROCESS_PARAMS, indirect=True)


def random_lanes(rng):
    special = [NOT_MINE, -(1 << 62), 0, -1, (1 << 62) - 1]
    values = [rng.choice([*special, rng.randrange(-(1 << 62), 1 << 62)]) for _ in range(NUM_LANES)]
    return np.array(values, dtype=np.int64)


def test_many_ticks_give_the_minimum_on_every_rank(backend):
    ranks = backend.group()
    rng = random.Random(5)
    for _ in range(30):
        vectors = [random_lanes(rng) for _ in ranks]
        for answer in tick(ranks, vectors):
            np.testing.assert_array_equal(answer, np.minimum.reduce(vectors))
            assert answer.dtype == np.int64


def test_two_ticks_in_flight_come_back_in_order_and_a_third_is_refused(backend):
    ranks = backend.group()
    for epoch in range(10):
        if epoch == 0:
            all_ranks(ranks, "issue", [0] * NUM_LANES)
        all_ranks(ranks, "issue", [epoch + 1] * NUM_LANES)
        if epoch == 3:
            with pytest.raises(AgreementError, match="2 ticks are uncollected"):
                ranks[-1].call("issue", [0] * NUM_LANES)
        assert [int(a[0]) for a in all_ranks(ranks, "result", 10.0)] == [epoch] * backend.size
    assert [int(a[0]) for a in all_ranks(ranks, "result", 10.0)] == [10] * backend.size


@needs_processes
@pytest.mark.parametrize("seed", [1, 2])
def test_ranks_that_race_through_a_pipeline_never_see_another_tick(backend, seed):
    ranks = backend.group()
    num_ticks = 20_000 if backend.kind == "shm" and backend.size == 2 else 200
    assert all_ranks(ranks, "run_pipelined", num_ticks, seed) == [0] * backend.size


def test_late_rank_is_waited_for(backend):
    *others, last = backend.group()
    all_ranks(others, "issue", [7] * NUM_LANES)
    if backend.kind != "local":
        for rank in others:
            rank.start("result", 10.0)
        time.sleep(0.2)
    last.call("issue", [5] * NUM_LANES)
    answers = finish_all(others) if backend.kind != "local" else all_ranks(others, "result", 0.0)
    assert [int(answer[0]) for answer in answers] == [5] * len(others)
    assert last.call("result", 10.0)[0] == 5


def test_ready_tells_whether_the_result_is_there(backend):
    *others, last = ranks = backend.group()
    assert not any(all_ranks(ranks, "ready"))
    for rank in others:
        rank.call("issue", [7] * NUM_LANES)
        assert not rank.call("ready")
    last.call("issue", [5] * NUM_LANES)
    wait_for(lambda: all(all_ranks(ranks, "ready")))
    assert [int(answer[0]) for answer in all_ranks(ranks, "result", 0.5)] == [5] * backend.size
    assert not any(all_ranks(ranks, "ready"))


def test_rank_that_never_ticks_is_named_with_the_last_epochs_and_may_still_come(backend):
    """Every other rank is told within the deadline, and the group survives."""
    *others, last = ranks = backend.group()
    tick(ranks, [[1] * NUM_LANES] * backend.size)
    all_ranks(others, "issue", [7] * NUM_LANES)
    start = time.monotonic()
    for rank in others:
        rank.start("result", 1.0)
    texts = errors_of(others)
    assert time.monotonic() - start < 1.0 + PATIENCE_S
    for text in texts:
        assert re.search(backend.late(backend.size - 1), text), text
        assert "ticks issued by each rank: [" in text, text
    last.call("issue", [5] * NUM_LANES)
    assert [int(a[0]) for a in all_ranks(ranks, "result", 10.0)] == [5] * backend.size


def test_result_without_issue(backend):
    with pytest.raises(AgreementError, match="no tick is issued"):
        backend.group()[0].call("result", 1.0)


@pytest.mark.parametrize("num_lanes", [0, NUM_LANES - 1, NUM_LANES + 1])
def test_wrong_number_of_lanes_is_refused_before_it_is_sent(backend, num_lanes):
    ranks = backend.group()
    tick(ranks, [[1] * NUM_LANES] * backend.size)
    with pytest.raises(AgreementError, match=rf"\b{num_lanes}\b.*\b{NUM_LANES}\b"):
        ranks[0].call("issue", [0] * num_lanes)
    assert tick(ranks, [[2] * NUM_LANES] * backend.size)[0][0] == 2


def test_ranks_with_different_numbers_of_lanes_never_meet(backend):
    if backend.kind == "local":
        ranks = backend.group()
        ranks[0].call("issue", [0] * NUM_LANES)
        with pytest.raises(AgreementError, match="49"):
            ranks[1].call("issue", [0] * 49)
        return
    with pytest.raises(AgreementError, match=r"\b49\b") as error:
        backend.group([NUM_LANES] * (backend.size - 1) + [49])
    assert str(NUM_LANES) in str(error.value)
    assert (
        tick(backend.group(), [[3] * NUM_LANES] * (backend.size - 1) + [[2] * NUM_LANES])[0][0] == 2
    )


def test_closed_group_is_refused(backend):
    ranks = backend.group()
    ranks[0].call("close")
    ranks[0].call("close")
    for command in [("issue", [0] * NUM_LANES), ("result", 1.0), ("ready",)]:
        with pytest.raises(AgreementError, match="closed"):
            ranks[0].call(*command)


@needs_processes
def test_second_thread_is_refused_while_the_first_waits(backend):
    rank = backend.group()[0]
    rank.call("issue", [1] * NUM_LANES)
    (text,) = rank.call("second_thread", [1] * NUM_LANES, 1.0)
    assert "rank 0: issue() in thread" in text and "ticks are of one thread" in text


@needs_processes
def test_waiting_rank_leaves_its_core_to_others(backend):
    rank = backend.group()[0]
    rank.call("issue", [1] * NUM_LANES)
    # In shared memory nobody waits in Python, and so little that a first long spin would show.
    assert rank.call("cpu_of_waiting", 1.0) < (0.04 if backend.kind == "shm" else 0.15)


STATE = SlotState(7, step=1, ready=True, num_pages=5, short=(0, 0), hits=(5, 3))
GOOD = (POOLS, NUM_SLOTS, 3, 11, {2: STATE})


def issue_ticks(ranks, last):
    """All ranks but the last say GOOD."""
    for rank in ranks[:-1]:
        rank.start("issue_tick", *GOOD)
    ranks[-1].start("issue_tick", *last)
    finish_all(ranks)


def test_agreed_tick(backend):
    ranks = backend.group()
    other = STATE._replace(num_pages=4, short=(0, 2), hits=(6, 2))
    issue_ticks(ranks, (POOLS, NUM_SLOTS, 3, 11, {2: other}))
    for answer in all_ranks(ranks, "finish_tick", 10.0):
        assert answer == {2: (7, 1, 4, 5, (0, 2), (5, 2), False, -1)}


@pytest.mark.parametrize(
    ("changed", "lane", "values"),
    [
        ((("full", "ssm"), NUM_SLOTS, 3, 11, {2: STATE}), "schema", None),
        ((POOLS, NUM_SLOTS, 1, 11, {2: STATE}), "epoch", ("3", "1")),  # started again
        ((POOLS, NUM_SLOTS, 3, 12, {2: STATE}), "digest", ("11", "12")),
        ((POOLS, NUM_SLOTS, 3, 11, {2: STATE._replace(op_id=9)}), "slot[2].op", ("7", "9")),
        ((POOLS, NUM_SLOTS, 3, 11, {2: STATE._replace(step=2)}), "slot[2].step", ("1", "2")),
        ((POOLS, NUM_SLOTS, 3, 11, {}), "slot[2].op", ("7", "-1")),
        ((POOLS, NUM_SLOTS, 3, 11, {1: STATE, 2: STATE}), "slot[1].op", ("-1", "7")),
    ],
)
def test_mismatch_is_named_on_every_rank(backend, changed, lane, values):
    ranks = backend.group()
    issue_ticks(ranks, changed)
    for rank in ranks:
        rank.start("finish_tick", 10.0)
    texts = errors_of(ranks)
    assert all(f"({lane})" in text for text in texts)
    if values:
        mine, other = values
        assert all(f"this rank has {mine}" in text for text in texts[:-1])
        assert f"this rank has {other}" in texts[-1]
        assert all(value in text.split("smallest")[1] for text in texts for value in values)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_garbage_is_an_error_on_every_rank(backend, seed):
    """Lanes of another program: random bits."""
    ranks = backend.group()
    garbage = np.random.default_rng(seed).integers(-(1 << 63), 1 << 63, NUM_LANES, np.int64)
    issue_ticks(ranks, GOOD)
    finished = all_ranks(ranks, "finish_tick", 10.0)
    assert finished == [{2: (7, 1, 5, 5, (0, 0), (5, 3), False, -1)}] * backend.size
    for rank in ranks[:-1]:
        rank.start("issue_tick", *GOOD)
    ranks[-1].start("issue", garbage)
    finish_all(ranks)
    for rank in ranks:
        rank.start("finish_tick", 10.0)
    assert all("ranks differ in lane" in text for text in errors_of(ranks))


def test_killed_rank_is_an_error_on_every_other_rank_within_the_deadline(backend):
    *others, last = ranks = backend.group()
    tick(ranks, [[1] * NUM_LANES] * backend.size)
    all_ranks(others, "issue", [7] * NUM_LANES)
    if backend.kind == "local":
        last.kill()
    for rank in others:
        rank.start("result", 1.0)
    time.sleep(0.1)
    start = time.monotonic()
    if backend.kind != "local":
        last.kill()
    texts = errors_of(others)
    assert time.monotonic() - start < 1.0 + PATIENCE_S
    assert all("ticks issued by each rank: [" in text for text in texts)


@pytest.mark.parametrize("make", [LocalGroup, lambda: ShmGroup("test-one", 0, 1, 10)])
def test_group_of_one_waits_for_nobody(make):
    group = make()
    lanes = np.arange(10, dtype=np.int64)
    for _ in range(3):
        group.issue(lanes)
        group.issue(lanes + 1)
        assert group.ready()
        np.testing.assert_array_equal(group.result(0.0), lanes)
        np.testing.assert_array_equal(group.result(0.0), lanes + 1)
        assert not group.ready()
    group.close()
    with pytest.raises(AgreementError, match="closed"):
        group.issue(lanes)
