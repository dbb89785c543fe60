"""CircuitBreaker: a function of verdicts and of the clock; the tests hold both in their hands."""

import random
import threading

import pytest
from waiting import Clock

from hicache_ext.errors import StorageError
from hicache_ext.storage.breaker import BreakerState, CircuitBreaker, Verdict

GOOD, BAD, UNKNOWN = Verdict.GOOD, Verdict.BAD, Verdict.UNKNOWN
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(num_failures=3, open_s=5.0, clock=clock)


def call(breaker: CircuitBreaker, *verdicts: Verdict) -> None:
    for verdict in verdicts:
        ticket = breaker.admit()
        assert ticket is not None
        breaker.settle(ticket, verdict)


def test_opens_after_so_many_failures_in_a_row(breaker: CircuitBreaker) -> None:
    call(breaker, BAD, BAD, GOOD, BAD, BAD)  # a good one begins the count anew
    assert breaker.state is CLOSED
    call(breaker, UNKNOWN, BAD)  # one that says nothing does not
    assert (breaker.state, breaker.num_opened) == (OPEN, 1)
    assert breaker.admit() is None


def test_one_probe_after_the_pause_and_it_decides(breaker: CircuitBreaker, clock: Clock) -> None:
    call(breaker, BAD, BAD, BAD)
    clock.now_s += 4.999
    assert (breaker.state, breaker.admit()) == (OPEN, None)
    clock.now_s += 0.001
    assert breaker.state is HALF_OPEN
    probe = breaker.admit()
    assert probe is not None and breaker.admit() is None
    breaker.settle(probe, BAD)  # one is enough here, and the pause begins anew
    assert (breaker.state, breaker.num_opened) == (OPEN, 2)
    clock.now_s += 4.0
    assert breaker.admit() is None
    clock.now_s += 1.0
    call(breaker, GOOD)
    assert breaker.state is CLOSED
    call(breaker, BAD, BAD)  # what was counted before is forgotten
    assert breaker.state is CLOSED


def test_a_probe_that_says_nothing_lets_another_one_try(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    call(breaker, BAD, BAD, BAD)
    clock.now_s += 5.0
    call(breaker, UNKNOWN)
    assert breaker.state is HALF_OPEN
    call(breaker, GOOD)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("verdict", [GOOD, BAD, UNKNOWN])
def test_a_call_from_before_the_change_does_not_count(
    breaker: CircuitBreaker, clock: Clock, verdict: Verdict
) -> None:
    late = breaker.admit()
    assert late is not None
    call(breaker, BAD, BAD, BAD)
    breaker.settle(late, verdict)
    assert (breaker.state, breaker.num_opened) == (OPEN, 1)
    clock.now_s += 5.0
    probe = breaker.admit()
    assert probe is not None
    breaker.settle(late, verdict)  # neither decides nor lets a second probe through
    assert (breaker.state, breaker.admit()) == (HALF_OPEN, None)
    breaker.settle(probe, GOOD)
    assert breaker.state is CLOSED


def test_the_same_history_gives_the_same_states() -> None:
    def run(seed: int) -> list[tuple[BreakerState, bool]]:
        rng, clock = random.Random(seed), Clock()
        breaker = CircuitBreaker(num_failures=2, open_s=1.0, clock=clock)
        history = []
        for _ in range(200):
            state, ticket = breaker.state, breaker.admit()
            history.append((state, ticket is not None))
            if ticket is not None:
                breaker.settle(ticket, rng.choice([GOOD, BAD, BAD]))
            clock.now_s += rng.random()
        return history

    first = run(7)
    assert first == run(7)
    assert {state for state, _ in first} == set(BreakerState)
    assert all(was_called is (state is not OPEN) for state, was_called in first)


def test_of_many_threads_one_probes(breaker: CircuitBreaker, clock: Clock) -> None:
    call(breaker, BAD, BAD, BAD)
    clock.now_s += 5.0
    start, tickets = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        tickets.append(breaker.admit())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ticket is not None for ticket in tickets) == 1


def test_impossible_numbers_are_refused() -> None:
    for bad in ({"num_failures": 0}, {"open_s": 0.0}, {"open_s": -1.0}, {"open_s": float("nan")}):
        with pytest.raises(StorageError, match=f"{next(iter(bad))}="):
            CircuitBreaker(**bad)
