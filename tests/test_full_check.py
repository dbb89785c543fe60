"""HICACHE_CHECK=full on one tree: what is logged of each call, and what is not."""

import pytest

from hicache_ext.errors import HiCacheError
from hicache_ext.flow.full_check import obey_check_variable
from hicache_ext.tier import Tier
from hicache_ext.tree import Full, RadixTree, Swa, pack_tokens

SECRET = [31337] * 8


def checked():
    tree = RadixTree(2, (Full(), Swa(4)))
    assert obey_check_variable(tree) == "full"
    return tree


@pytest.fixture(autouse=True)
def full_check(monkeypatch):
    monkeypatch.setenv("HICACHE_CHECK", "full")


def last(tree):
    return tree.log.text(tree.log.num_ops - 1)


def test_every_call_is_logged_but_inspection():
    names = {n for n, f in vars(RadixTree).items() if callable(f) and not n.startswith("_")}
    inspection = {"owned_pages", "check_integrity", "show", "pack", "take_events", "event_snapshot"}
    assert names - set(vars(checked())) == inspection


def test_without_it_no_call_is_wrapped(monkeypatch):
    monkeypatch.setenv("HICACHE_CHECK", "")
    tree = RadixTree(2, (Full(),))
    assert obey_check_variable(tree) == "" and "insert" not in vars(tree)


def test_an_unknown_value_is_refused(monkeypatch):
    monkeypatch.setenv("HICACHE_CHECK", "all")
    with pytest.raises(HiCacheError, match="HICACHE_CHECK='all'"):
        obey_check_variable(RadixTree(2, (Full(),)))


def test_arguments_results_and_state_are_in_words():
    tree = checked()
    tree.insert(SECRET, {"full": [5, 6, 7, 8], "swa": [-1, -1, 3, 4]})
    first, *_ = last(tree).split(" = ")
    assert first.startswith("tree.insert(tokens=32 bytes (hash ")
    assert ", pages={full: 4 pages, swa: 4 pages (holes " in first
    assert last(tree).endswith(f", then digest {tree.digest:x}")
    receipt = tree.lock(2, num_pages={"swa": 1})
    assert "tier=DEVICE, num_pages={swa: 1}) = Receipt 0 of node 2, then" in last(tree)
    tree.unlock(receipt)
    assert "tree.unlock(receipt=Receipt 0 of node 2) = None, then" in last(tree)
    assert tree.path_pages(2, "full", Tier.HOST) == [-1] * 4
    assert "component=full, tier=HOST, last=None) = 4 pages (holes " in last(tree)
    tree.keys(2)
    assert "tree.keys(node=2) = 4 keys (hash " in last(tree)
    tree.begin_backup(2)
    assert (
        "tree.begin_backup(node=2, last=None, min_hits=0) = BackupPlan 2 of node 2, then"
        in last(tree)
    )
    tree.evict(Tier.DEVICE, {"full": 1})
    assert "= {device: {full: 0 pages, swa: 0 pages}, host: {" in last(tree)
    said = [tree.log.text(op) for op in range(tree.log.num_ops)]
    assert not any("31337" in text for text in said)


@pytest.mark.parametrize("given_as", [list, pack_tokens])
def test_other_tokens_are_seen_in_calls_that_change_nothing(given_as):
    """A match of the same length and outcome."""
    trees = [checked(), checked()]
    for tree, tokens in zip(trees, ([7] * 4, [8] * 4), strict=True):
        tree.match_prefix(given_as(tokens))
    assert trees[0].digest == trees[1].digest and last(trees[0]) != last(trees[1])


def test_page_ids_are_not_compared_but_where_there_is_none_is():
    trees = [checked() for _ in range(3)]
    windows = ([-1, -1, 3, 4], [-1, -1, 5, 6], [-1, 3, -1, 4])
    for i, (tree, window) in enumerate(zip(trees, windows, strict=True)):
        tree.insert(SECRET, {"full": range(i, i + 4), "swa": window})
    said = [last(tree).split(" = ")[0] for tree in trees]
    assert said[0] == said[1] != said[2]
    assert trees[0].log.hash == trees[1].log.hash != trees[2].log.hash
