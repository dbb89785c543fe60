"""group="auto": what is taken for which ranks, and what it says."""

import logging
import subprocess
import sys

import pytest
from group_backends import ProcessBackend, tick

from hicache_ext.agreement import LocalGroup, make_group
from hicache_ext.errors import AgreementError

NUM_LANES = 10


class Crew(ProcessBackend):
    """Three ranks that make groups by name; `hosts`: where each claims to be."""

    def make(self, num_lanes):
        pass

    def auto(self, kinds, hosts, num_lanes=(NUM_LANES,) * 3):
        return self.each("make_auto", lambda i: (kinds[i], num_lanes[i], 5.0, hosts[i]))


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    crew = Crew(3, tmp_path_factory.mktemp("crew"))
    crew.group()
    yield crew
    crew.stop()


@pytest.mark.parametrize(
    ("hosts", "kind", "why"),
    [
        ([None] * 3, "shm", "3 ranks are on 1 host"),
        ([4, 5, 4], "hierarchical", "3 ranks are on 2 hosts"),
        ([4, 5, 6], "torch", "3 ranks are on 3 hosts"),
    ],
)
def test_auto_says_what_it_took_and_why(crew, hosts, kind, why):
    assert crew.auto(["auto"] * 3, hosts) == [(kind, why)] * 3
    for answer in tick(crew.ranks, [[5] * NUM_LANES, [3] * NUM_LANES, [4] * NUM_LANES]):
        assert answer.tolist() == [3] * NUM_LANES


@pytest.mark.parametrize("kind", ["torch", "hierarchical", "shm"])
def test_kind_that_was_asked_for(crew, kind):
    why = f"group='{kind}' was asked for, and 3 ranks are on 1 host"
    assert crew.auto([kind] * 3, [4, 4, 4]) == [(kind, why)] * 3
    assert tick(crew.ranks, [[5] * NUM_LANES] * 3)[0].tolist() == [5] * NUM_LANES


def test_shared_memory_does_not_reach_another_host(crew):
    with pytest.raises(AgreementError, match=r"group='shm' cannot .* 2 hosts: \[\[0, 2\], \[1\]\]"):
        crew.auto(["shm"] * 3, [4, 5, 4])
    with pytest.raises(AgreementError, match="group='local' cannot join 3 ranks"):
        crew.auto(["local"] * 3, [4, 4, 4])


def test_ranks_that_ask_for_different_things(crew):
    with pytest.raises(
        AgreementError, match=r"different kinds of group: \['auto', 'shm', 'auto'\]"
    ):
        crew.auto(["auto", "shm", "auto"], [4, 4, 4])
    with pytest.raises(AgreementError, match=r"different numbers of lanes: \[10, 10, 11\]"):
        crew.auto(["auto"] * 3, [4, 4, 4], (10, 10, 11))


def test_one_rank_needs_neither_torch_nor_ipc(caplog):
    with caplog.at_level(logging.INFO, "hicache_ext"):
        group = make_group(num_lanes=NUM_LANES)
    assert isinstance(group, LocalGroup) and group.why == "there is one rank"
    assert caplog.messages == ["a group of kind local for 1 ranks: there is one rank"]
    code = (
        "import sys, hicache_ext as h; h.make_group(num_lanes=4); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kind_that_does_not_exist():
    with pytest.raises(AgreementError, match="group='mpi': want one of auto, local, shm"):
        make_group("mpi", num_lanes=NUM_LANES)


@pytest.mark.parametrize("kind", ["torch", "shm", "hierarchical"])
def test_one_deadline_holds_for_all_steps(crew, kind):
    """A rank that dawdles in each step: the others wait for it no longer than that in all."""
    hosts = [4, 5, 4] if kind == "hierarchical" else [4, 4, 4]
    for i, rank in enumerate(crew.ranks):
        rank.start("dawdle", kind, NUM_LANES, 1.0, hosts[i], 0.6 if i == 2 else 0.0)
    took = [rank.finish() for rank in crew.ranks]
    assert all(error and 0.5 < wall_s < 1.5 for error, wall_s in took[:2]), took
