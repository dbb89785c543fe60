"""drop_duplicates(): a host that is full of what the device has as well gives copies up."""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, make_tree, residency, tokens

from hicache_ext.errors import TreeError


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def on_both(tree, *prompts):
    for i, prompt in enumerate(prompts):
        end = insert(tree, prompt, [10 * page for page in prompt]).node
        back_up(tree, end, 1000 * (i + 1))


def test_the_most_recently_used_copies_go_and_the_device_keeps_its_pages(tree):
    on_both(tree, (1, 2), (5, 6))
    tree.match_prefix(tokens(1, 2))
    freed = tree.drop_duplicates({"full": 1})
    assert freed.host == {"full": [1000, 1001], "swa": [1002, 1003]}
    assert not any(freed.device.values())
    assert residency(tree, 1, 2) == {"full": "DD", "swa": "DD"}
    assert residency(tree, 5, 6) == {"full": "BB", "swa": "BB"}


def test_of_one_path_the_leaf_goes_first_and_then_its_parent(tree):
    on_both(tree, (1,), (1, 2))
    assert tree.drop_duplicates({"full": 2}).host["full"] == [2000, 1000]


def test_a_window_can_go_alone(tree):
    on_both(tree, (1,), (1, 2))
    assert tree.drop_duplicates({"swa": 1}).host == {"full": [], "swa": [2001]}
    assert residency(tree, 1, 2) == {"full": "BB", "swa": "BD"}


def test_what_is_locked_or_only_on_the_host_stays(tree):
    on_both(tree, (1,), (1, 2))
    receipt = tree.lock(tree.match_prefix(tokens(1)).node, HOST)
    tree.evict(DEVICE, {"full": 1})  # page 2 is on the host alone, and keeps its parent's copy
    assert not any(tree.drop_duplicates({"full": 9, "swa": 9}).host.values())
    tree.unlock(receipt)
    assert tree.drop_duplicates({"full": 9}).host["full"] == []
    assert tree.evict(HOST, {"full": 1}).host["full"] == [2000]
    assert tree.drop_duplicates({"full": 9}).host["full"] == [1000]


def test_bad_counts_and_names_are_refused(tree):
    with pytest.raises(TreeError, match="drop -1 host duplicates of 'full'"):
        tree.drop_duplicates({"full": -1})
    with pytest.raises(TreeError, match="'mamba' is unknown"):
        tree.drop_duplicates({"mamba": 1})
