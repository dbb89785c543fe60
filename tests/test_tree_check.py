"""check_integrity() of the native core: each invariant is broken in its memory, and it says what
the Python tree's own check says of a copy of that memory. I12 cannot be broken there: keys have no
length of their own. I14 is a matter of gates, which have no state: test_tree_invariants.py.
"""

import ctypes
import re

import pytest
from native_objects import compile_unit, link, objects
from test_tree_invariants import insert
from tree_tools import back_up, tokens

from hicache_ext.errors import TreeError
from hicache_ext.tree import Full, Mamba, RadixTree, Swa
from hicache_ext.tree.integrity import violations

# What break_tree.cpp breaks, and the law that must be named.
BREAKS = {
    **{"no base above": "I1", "no host base above": "I2", "no base": "I3", "window alone": "I4"},
    **{"lock too many": "I5", "lock too few": "I5", "negative": "I5", "no lock of the base": "I5"},
    **{"base not queued": "I6", "base queued twice": "I6", "base flag": "I6", "children": "I6"},
    **{"window not queued": "I7", "state queued twice": "I7", "protected": "I8"},
    **{"pin": "I9", "plan's node": "I9", "short window": "I10", "long base": "I10"},
    **{"two states": "I11", "inside a node": "I13", "dead node": "I13"},
    **{"ledger": "I15", "ledger lacks": "I15", "twice": "I15"},
    **{"not told": "I16", "clock": "I16", "tokens": "I16"},
    **{"next id": "next id 0", "hits": "1000000 hits below"},
}
# What only the core itself can have: a copy of it has no tables and no lists.
OWN_BREAKS = {
    "root": "root 0 of b'' is no root",
    "alive": "node -1: alive False",
    "parent": "node 2: parent 3, found below 1",
    "namespace": "parent 1, found below 1",
    "empty": "0 key bytes for 0 pages",
    "first page": "the table of children has it not for its first page",
    "first page hash": "the hash of its first page is of another",
    "two of a first page": "the table of children has it not for its first page",
    "sibling": "its sibling before is another",
    "last child": "its last child is another",
    "ring": "node 1 can be reached twice",
    "unknown id": "the table of ids has it not",
    "unreachable": "3 nodes and 2 children can be reached, the tables have 4 and 3",
    "two roots of a namespace": "another has its namespace",
    "ledger's count": "full HOST: the ledger has 2 pages and counts 1",
}


@pytest.fixture(scope="session")
def tree_break(tmp_path_factory):
    folder = tmp_path_factory.mktemp("break")
    compile_unit("tests/cpp/break_tree.cpp", folder / "break.o")
    link([folder / "break.o", *objects("/tree_").values()], folder / "break.so")
    return ctypes.CDLL(str(folder / "break.so")).tree_break


@pytest.fixture
def laden():
    """(tree, upper, lower, leaf), as that of test_tree_invariants.py"""
    tree = RadixTree(4, (Full(), Swa(8), Mamba()), core="native")
    upper = insert(tree, (1, 2), [0, 1]).node
    back_up(tree, upper, 50)
    lower = insert(tree, (1, 2, 3, 4), [0, 1, 2, 3]).node
    tree.lock(upper)
    tree.begin_backup(lower)
    leaf = insert(tree, (9,), [9]).node
    tree.check_integrity()
    assert tree.digest
    return tree, upper, lower, leaf


def break_it(tree_break, laden, name):
    """Returns what check_integrity() says."""
    tree, *nodes = laden
    # pybind11 keeps the pointer to the C++ object right behind Python's own fields.
    core = ctypes.c_void_p.from_address(id(tree._core) + object.__basicsize__)
    ids = [ctypes.c_int64(node) for node in nodes]
    assert tree_break(core, name.encode(), *ids) == 0
    with pytest.raises(TreeError) as caught:
        tree.check_integrity()
    first, *found = str(caught.value).splitlines()
    assert first == f"{len(found)} violations:"
    return found


@pytest.mark.parametrize("name", BREAKS)
def test_both_checks_name_a_broken_invariant_alike(tree_break, laden, name):
    found = break_it(tree_break, laden, name)
    assert [text for text in found if not text.startswith("tickets")] == violations(laden[0]._state)
    law = BREAKS[name]
    assert (f"({law})" if re.match(r"I\d", law) else law) in "\n".join(found)


@pytest.mark.parametrize("name", OWN_BREAKS)
def test_what_only_the_core_has_is_checked_as_well(tree_break, laden, name):
    assert OWN_BREAKS[name] in "\n".join(break_it(tree_break, laden, name))


def test_both_checks_report_all_at_once(tree_break, laden):
    for name in ("protected", "children", "ledger"):
        break_it(tree_break, laden, name)
    found = break_it(tree_break, laden, "two states")
    assert found == violations(laden[0]._state)
    assert all(f"({law})" in "\n".join(found) for law in ("I6", "I8", "I11", "I15"))


def test_a_receipt_that_only_one_side_has_is_told():
    tree = RadixTree(4, (Full(),), core="native")
    tree.insert(tokens(1), {"full": [0]})
    receipt = tree.lock(1)
    del tree._receipts[receipt.id]
    with pytest.raises(TreeError, match=r"tickets \[0\] are open here or in the core alone"):
        tree.check_integrity()
