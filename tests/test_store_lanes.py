"""Lanes: who waits can leave, what the call holds stays until it is over, and lanes come back."""

import threading
import weakref
from functools import partial

import pytest

from hicache_ext import HostBuffer
from hicache_ext.errors import LifetimeError
from hicache_ext.storage.lanes import Lane, Lanes


@pytest.fixture
def lanes():
    made = Lanes(2)
    yield made
    assert made.close(10.0)


def take(lanes: Lanes) -> Lane:
    lane = lanes.take(10.0)
    assert lane is not None
    return lane


def test_a_call_and_its_result(lanes: Lanes) -> None:
    lane = take(lanes)
    for value in (1, None, "x"):
        lane.start(lambda value=value: value)
        assert lane.wait(10.0)
        assert lane.result() == value
    assert lane.leave().is_set()


def test_what_it_raises_is_raised_to_who_asked(lanes: Lanes) -> None:
    lane = take(lanes)
    lane.start(lambda: int("x"))
    assert lane.wait(10.0)
    with pytest.raises(ValueError, match="'x'"):
        lane.result()
    lane.start(lambda: 3)  # and does not stick
    assert lane.wait(10.0) and lane.result() == 3
    lane.leave()


def test_who_leaves_gets_the_lane_back_only_when_the_call_is_over(lanes: Lanes) -> None:
    held, gate = [take(lanes), take(lanes)], threading.Event()
    for lane in held:
        lane.start(gate.wait)
    assert not held[0].wait(0.01)
    over = held[0].leave()
    assert not over.is_set()
    assert lanes.take(0.01) is None
    assert held[0].is_left and not lanes.are_all_left
    gate.set()
    assert take(lanes) is held[0]
    assert not held[0].is_left
    assert over.is_set()
    assert held[1].wait(10.0)
    held[1].leave()
    held[0].start(lambda: 5)  # nothing of the call that was left is in the way
    assert held[0].wait(10.0) and held[0].result() == 5
    held[0].leave()


def test_buffers_live_as_long_as_the_call_that_was_left(lanes: Lanes) -> None:
    buffer, gate = HostBuffer(8192), threading.Event()

    def engine_call(page: memoryview) -> None:
        gate.wait()
        page[:] = b"\x01" * 4096

    call = partial(engine_call, buffer.view()[:4096])
    alive = weakref.ref(call)
    lane = take(lanes)
    lane.start(call)
    del call
    over = lane.leave()
    with pytest.raises(LifetimeError, match="1 view"):
        buffer.close()
    gate.set()
    assert over.wait(10.0)
    assert alive() is None
    assert bytes(buffer.view()[:1]) == b"\x01"
    buffer.close()


def test_a_lane_that_was_taken_for_nothing_comes_back(lanes: Lanes) -> None:
    lane = take(lanes)
    assert lane.leave().is_set()
    assert take(lanes) is lane
    lane.leave()


def test_close_waits_for_calls_and_says_if_one_hangs() -> None:
    lanes, gate = Lanes(2), threading.Event()
    lane = take(lanes)
    lane.start(gate.wait)
    lane.leave()
    assert not lanes.close(0.05)
    gate.set()


def test_many_calls_on_few_lanes(lanes: Lanes) -> None:
    """Half of them are left in flight: no lane is lost, none is had by two at once."""
    in_use, wrong, total = set(), [], []

    def caller(seed: int) -> None:
        for i in range(100):
            lane = take(lanes)
            if lane.index in in_use:
                wrong.append((seed, i, "lane of another call"))
            in_use.add(lane.index)
            lane.start(lambda i=i: i)
            if i % 2:
                if not lane.wait(10.0) or lane.result() != i:
                    wrong.append((seed, i, "result of another call"))
                total.append(i)
            in_use.discard(lane.index)
            lane.leave()

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(total) == 250
