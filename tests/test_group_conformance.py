"""One suite for every group of two ranks: simulated, shared memory, torch.distributed over gloo."""

import random
import time
import uuid

import numpy as np
import pytest
from group_worker import LocalRank, ProcessRank

from hicache_ext.agreement import NOT_MINE, LocalGroup, SlotState
from hicache_ext.errors import AgreementError

NUM_LANES = 50
POOLS = ("full", "swa")
NUM_SLOTS = 4  # 6 + 4 * (7 + 2 * 2) = NUM_LANES


class LocalBackend:
    kind = "local"

    def group(self, num_lanes=(NUM_LANES, NUM_LANES)):
        return [LocalRank(group) for group in LocalGroup.simulated(2)]

    def stop(self):
        pass


class ProcessBackend:
    """Two processes, kept from test to test; a killed one is replaced, with its peer."""

    def __init__(self):
        self.ranks = []

    def group(self, num_lanes=(NUM_LANES, NUM_LANES)):
        if not self.ranks or not all(rank._process.is_alive() for rank in self.ranks):
            self.stop()
            self.ranks = [ProcessRank() for _ in range(2)]
            self.join()
        self.make(num_lanes)
        return self.ranks

    def join(self):
        pass

    def stop(self):
        for rank in self.ranks:
            rank.stop()


class ShmBackend(ProcessBackend):
    kind = "shm"

    def make(self, num_lanes):
        name = f"test-{uuid.uuid4().hex}"
        for i, rank in enumerate(self.ranks):
            rank.start("make_shm", name, i, 2, num_lanes[i], 10.0)
        finish_all(self.ranks)


class TorchBackend(ProcessBackend):
    kind = "torch"

    def __init__(self, tmp_path):
        super().__init__()
        self.tmp_path = tmp_path

    def join(self):
        path = str(self.tmp_path / uuid.uuid4().hex)
        for i, rank in enumerate(self.ranks):
            rank.start("join_torch", i, 2, path)
        finish_all(self.ranks)

    def make(self, num_lanes):
        for i, rank in enumerate(self.ranks):
            rank.start("make_torch", [0, 1], num_lanes[i], 10.0)
        finish_all(self.ranks)


@pytest.fixture(scope="module", params=["local", "shm", "torch"])
def backend(request, tmp_path_factory):
    if request.param == "local":
        backend = LocalBackend()
    elif request.param == "shm":
        backend = ShmBackend()
    else:
        backend = TorchBackend(tmp_path_factory.mktemp("gloo"))
    yield backend
    backend.stop()


def finish_all(ranks):
    """Every answer is taken before the first error is raised: the ranks stay usable."""
    answers, errors = [], []
    for rank in ranks:
        try:
            answers.append(rank.finish())
        except AgreementError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return answers


def errors_of(ranks):
    texts = []
    for rank in ranks:
        with pytest.raises(AgreementError) as error:
            rank.finish()
        texts.append(str(error.value))
    return texts


def all_ranks(ranks, name, *args):
    for rank in ranks:
        rank.start(name, *args)
    return finish_all(ranks)


def tick(ranks, vectors, deadline_s=10.0):
    for rank, lanes in zip(ranks, vectors, strict=True):
        rank.start("issue", lanes)
    finish_all(ranks)
    return all_ranks(ranks, "result", deadline_s)


def random_lanes(rng):
    special = [NOT_MINE, -(1 << 62), 0, -1, (1 << 62) - 1]
    values = [rng.choice([*special, rng.randrange(-(1 << 62), 1 << 62)]) for _ in range(NUM_LANES)]
    return np.array(values, dtype=np.int64)


def test_many_ticks_give_the_minimum_on_every_rank(backend):
    ranks = backend.group()
    rng = random.Random(5)
    for _ in range(50):
        vectors = [random_lanes(rng), random_lanes(rng)]
        for answer in tick(ranks, vectors):
            np.testing.assert_array_equal(answer, np.minimum(*vectors))
            assert answer.dtype == np.int64


def test_two_ticks_in_flight_come_back_in_order_and_a_third_is_refused(backend):
    ranks = backend.group()
    for epoch in range(10):
        if epoch == 0:
            all_ranks(ranks, "issue", [0] * NUM_LANES)
        all_ranks(ranks, "issue", [epoch + 1] * NUM_LANES)
        if epoch == 3:
            with pytest.raises(AgreementError, match="2 ticks are uncollected"):
                ranks[1].call("issue", [0] * NUM_LANES)
        assert [int(a[0]) for a in all_ranks(ranks, "result", 10.0)] == [epoch] * 2
    assert [int(a[0]) for a in all_ranks(ranks, "result", 10.0)] == [10] * 2


@pytest.mark.parametrize("seed", [1, 2])
def test_ranks_that_race_through_a_pipeline_never_see_another_tick(backend, seed):
    if backend.kind == "local":
        pytest.skip("simulated ranks do not race")
    ranks = backend.group()
    num_ticks = 20_000 if backend.kind == "shm" else 200
    assert all_ranks(ranks, "run_pipelined", num_ticks, seed) == [0, 0]


def test_late_rank_is_waited_for(backend):
    ranks = backend.group()
    ranks[0].call("issue", [7] * NUM_LANES)
    ranks[0].start("result", 10.0)
    time.sleep(0.1)
    ranks[1].call("issue", [5] * NUM_LANES)
    assert ranks[0].finish()[0] == 5
    assert ranks[1].call("result", 10.0)[0] == 5


def test_ready_tells_whether_the_result_is_there(backend):
    ranks = backend.group()
    assert not ranks[0].call("ready")
    ranks[0].call("issue", [7] * NUM_LANES)
    assert not ranks[0].call("ready")
    ranks[1].call("issue", [5] * NUM_LANES)
    end = time.monotonic() + 10
    while not ranks[0].call("ready") and time.monotonic() < end:
        time.sleep(0.001)
    assert ranks[0].call("result", 0.5)[0] == 5
    assert not ranks[0].call("ready")


def test_rank_that_never_ticks_is_named_within_the_deadline_and_may_still_come(backend):
    ranks = backend.group()
    ranks[0].call("issue", [7] * NUM_LANES)
    start = time.monotonic()
    with pytest.raises(AgreementError, match=r"\b1\b") as error:
        ranks[0].call("result", 1.0)
    assert time.monotonic() - start < 1.4
    assert "rank" in str(error.value)
    ranks[1].call("issue", [5] * NUM_LANES)
    assert [int(a[0]) for a in all_ranks(ranks, "result", 10.0)] == [5, 5]


def test_result_without_issue(backend):
    with pytest.raises(AgreementError, match="no tick is issued"):
        backend.group()[0].call("result", 1.0)


@pytest.mark.parametrize("num_lanes", [0, NUM_LANES - 1, NUM_LANES + 1])
def test_wrong_number_of_lanes_is_refused_before_it_is_sent(backend, num_lanes):
    ranks = backend.group()
    tick(ranks, [[1] * NUM_LANES] * 2)
    with pytest.raises(AgreementError, match=rf"\b{num_lanes}\b.*\b{NUM_LANES}\b"):
        ranks[0].call("issue", [0] * num_lanes)
    assert tick(ranks, [[2] * NUM_LANES] * 2)[0][0] == 2


def test_ranks_with_different_numbers_of_lanes_never_meet(backend):
    if backend.kind == "local":
        ranks = backend.group()
        ranks[0].call("issue", [0] * NUM_LANES)
        with pytest.raises(AgreementError, match="49"):
            ranks[1].call("issue", [0] * 49)
        return
    with pytest.raises(AgreementError, match=r"\b49\b") as error:
        backend.group((NUM_LANES, 49))
    assert str(NUM_LANES) in str(error.value)
    assert tick(backend.group(), [[3] * NUM_LANES, [2] * NUM_LANES])[1][0] == 2


def test_closed_group_is_refused(backend):
    ranks = backend.group()
    ranks[0].call("close")
    ranks[0].call("close")
    for command in [("issue", [0] * NUM_LANES), ("result", 1.0), ("ready",)]:
        with pytest.raises(AgreementError, match="closed"):
            ranks[0].call(*command)


STATE = SlotState(7, phase=1, ready=True, num_pages=5, short=(0, 0), hits=(5, 3))
GOOD = (POOLS, NUM_SLOTS, 3, 11, {2: STATE})


def test_agreed_tick(backend):
    ranks = backend.group()
    other = STATE._replace(ready=False, num_pages=4, short=(0, 2), hits=(6, 2))
    ranks[0].start("issue_tick", *GOOD)
    ranks[1].start("issue_tick", POOLS, NUM_SLOTS, 3, 11, {2: other})
    finish_all(ranks)
    first, second = all_ranks(ranks, "finish_tick", 10.0)
    assert first == second == {2: (7, 1, False, 4, 5, (0, 2), (5, 2), False)}


@pytest.mark.parametrize(
    ("changed", "lane", "values"),
    [
        ((("full", "ssm"), NUM_SLOTS, 3, 11, {2: STATE}), "schema", None),
        ((POOLS, NUM_SLOTS, 4, 11, {2: STATE}), "epoch", ("3", "4")),
        ((POOLS, NUM_SLOTS, 3, 12, {2: STATE}), "digest", ("11", "12")),
        ((POOLS, NUM_SLOTS, 3, 11, {2: STATE._replace(op_id=9)}), "slot[2].op", ("7", "9")),
        ((POOLS, NUM_SLOTS, 3, 11, {2: STATE._replace(phase=2)}), "slot[2].phase", ("1", "2")),
        ((POOLS, NUM_SLOTS, 3, 11, {}), "slot[2].op", ("7", "-1")),
        ((POOLS, NUM_SLOTS, 3, 11, {1: STATE, 2: STATE}), "slot[1].op", ("-1", "7")),
    ],
)
def test_mismatch_is_named_on_every_rank(backend, changed, lane, values):
    ranks = backend.group()
    ranks[0].start("issue_tick", *GOOD)
    ranks[1].start("issue_tick", *changed)
    finish_all(ranks)
    for rank in ranks:
        rank.start("finish_tick", 10.0)
    texts = errors_of(ranks)
    assert all(f"({lane})" in text for text in texts)
    for text, value in zip(texts, values or [], strict=False):
        assert f"this rank has {value}" in text
        assert all(other in text.split("smallest")[1] for other in values)


def test_killed_rank_is_noticed_well_before_the_deadline(backend):
    ranks = backend.group()
    tick(ranks, [[1] * NUM_LANES] * 2)
    ranks[0].call("issue", [7] * NUM_LANES)
    ranks[0].start("result", 20.0)
    time.sleep(0.1)
    start = time.monotonic()
    ranks[1].kill()
    with pytest.raises(AgreementError, match=r"\b1\b"):
        ranks[0].finish()
    assert time.monotonic() - start < 2
