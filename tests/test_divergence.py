"""The first tick after ranks have parted is an error on every rank: which lane, who, which values,
and the first operation that differs. Simulated ranks.
"""

import pytest
from divergences import (
    CASES,
    TICK,
    A,
    C,
    check,
    check_by_rank,
    dump_of,
    match,
    part,
    say_another_op,
    use_in_another_order,
    usual_traffic,
)
from ranks import Rank
from together import WaitingGroup, together

from hicache_ext.errors import AgreementError
from hicache_ext.flow.prefetch_rules import PrefetchRules
from hicache_ext.tier import Tier


@pytest.fixture(autouse=True)
def dumps(tmp_path, monkeypatch):
    monkeypatch.setenv("HICACHE_DUMP_DIR", str(tmp_path))
    return tmp_path


def ranks_of(size, **config):
    """`config` of the last rank."""
    groups = WaitingGroup.simulated(size)
    odd = [{}] * (size - 1) + [config]
    return [
        Rank(i, group, **extra) for i, (group, extra) in enumerate(zip(groups, odd, strict=True))
    ]


def outcomes(call, ranks):
    said = together(call, ranks)
    for rank in ranks:
        rank.close()
    assert not [error for error in said if isinstance(error, Exception)], said
    return said


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_simulated_ranks(name, size, tick_depth):
    check(name, tick_depth, size, outcomes(lambda r: part(r, name), ranks_of(size)))


def first_error(rank):
    with pytest.raises(AgreementError) as error:
        for _ in range(4):
            rank.cache.tick()
    return str(error.value)


@pytest.mark.parametrize("size", [2, 4])
def test_another_configuration_is_shown_in_words(size):
    def run(rank):
        return first_error(rank)

    for text in outcomes(run, ranks_of(size, prefetch=PrefetchRules(threshold_tokens=64))):
        assert "ranks differ in lane 0 (schema): this rank has 0x" in text
        odd, usual = r".*threshold_tokens=64.*", r".*CacheConfig\(page_size=4, window_tokens=10.*"
        check_by_rank(text, size, f"schema: {odd}", f"schema: {usual}")


@pytest.mark.parametrize("size", [2, 4])
def test_an_op_that_only_one_rank_knows(size):
    def run(rank):
        usual_traffic(rank)
        if rank.rank == size - 1:
            say_another_op(rank)
        else:
            rank.cache.prefetch(C)
        return first_error(rank)

    for text in outcomes(run, ranks_of(size)):
        assert "(slot[0].op)" in text
        check_by_rank(text, size, r"\d+", r"\d+")


def test_a_rank_that_goes_wrong_by_itself(tick_depth):
    """No call differs: the tree's digest does."""

    def run(rank):
        usual_traffic(rank)
        if rank.rank == 1:
            use_in_another_order(rank)
        return first_error(rank)

    for text in outcomes(run, ranks_of(2)):
        assert "(digest)" in text and "are the same on all ranks" in text


def test_an_abort_on_one_rank_is_no_divergence():
    def run(rank):
        rank.put("full", [])
        op_id = rank.cache.prefetch(A)
        if rank.rank == 1:
            rank.cache.abort(op_id)
        return rank.cache.drain()[0].outcome.value

    assert outcomes(run, ranks_of(2)) == ["aborted", "aborted"]


def test_tokens_are_in_no_error_and_no_file(dumps):
    secret = [31337] * 40

    def run(rank):
        rank.cache.match(secret if rank.rank else secret[:20], b"tenant")
        return first_error(rank)

    said = outcomes(run, ranks_of(2)) + [path.read_text() for path in dumps.iterdir()]
    assert len(said) == 4
    assert not any("31337" in text or "tenant" in text for text in said)


# -- HICACHE_CHECK=full ----------------------------------------------------------------------------


@pytest.fixture
def full_check(monkeypatch):
    monkeypatch.setenv("HICACHE_CHECK", "full")


@pytest.mark.parametrize("name", ["misses a call", "another order", "misses an alloc"])
def test_full_check_finds_the_same(name, full_check, tick_depth):
    for num_ticks, text in outcomes(lambda r: part(r, name), ranks_of(2)):
        assert num_ticks == 1 + tick_depth and "first different operation" in text


def read_on_one_rank(rank):
    usual_traffic(rank)
    if rank.rank == 1:
        rank.cache.tree.path_pages(1, "full", Tier.HOST, last=2)
    rank.cache.tick()
    rank.cache.drain()


def test_only_the_full_check_compares_calls_that_change_nothing(monkeypatch):
    assert outcomes(read_on_one_rank, ranks_of(2)) == [None, None]
    monkeypatch.setenv("HICACHE_CHECK", "full")
    for error in together(read_on_one_rank, ranks_of(2)):
        call = r"tree\.path_pages\(node=1, component=full, tier=HOST, last=2\) = 2 pages, then .*"
        check_by_rank(str(error), 2, call, TICK)


def wrong_then_called(rank):
    usual_traffic(rank)
    if rank.rank == 1:
        use_in_another_order(rank)
    for _ in range(3):
        match(C)(rank)
    return first_error(rank)


def test_the_full_check_names_the_call_after_which_the_trees_differ(full_check):
    for text in outcomes(wrong_then_called, ranks_of(2)):
        call = r"tree\.match_prefix\(tokens=96 bytes \(hash \w+\), namespace=0 bytes .*digest \w+"
        check_by_rank(text, 2, call, call)
    calls = [line for line in dump_of(text).read_text().splitlines() if "tree.match_prefix" in line]
    assert [line[0] for line in calls[-3:]] == [">", " ", " "]


def test_the_full_check_is_compared_itself(monkeypatch):
    ranks = ranks_of(2)
    monkeypatch.setenv("HICACHE_CHECK", "full")
    ranks[1] = Rank(1, ranks[1].cache._engine._group)
    for text in outcomes(first_error, ranks):
        assert "(schema)" in text
        check_by_rank(text, 2, ".*check 'full'", ".*check ''")
