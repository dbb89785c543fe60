"""What comes back equals what was never away: tiers, prefetch policies, one rank and two, with
sliding windows and without. Small random weights here, the real model in the long tests.

Logits are compared bit for bit in float32, between answers that are cut into the same chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from restore_matrix import Scene, run_ranks

from hicache_ext.errors import ModelError
from hicache_ext.flow.prefetch_rules import PrefetchPolicy
from hicache_ext.integrations.gemma_weights import ensure_gemma3_270m

SMALL = {"page": 4, "chunk": 16, "half": 32, "prompt": 64, "answer": 4}
REAL = {"page": 16, "chunk": 512, "half": 1024, "prompt": 1536, "answer": 8}
NOISE = 1e-3  # ranks add their shares of a sum in another order than one process does
POLICIES = [policy.value for policy in PrefetchPolicy]

LONG = [pytest.mark.long, pytest.mark.timeout(1800)]
ALL = [(*where, size) for where in (("sliding", "real"), ("full", "real")) for size in (1, 2)]
ALL += [(*where, size) for where in (("sliding", "small"), ("full", "small")) for size in (1, 2)]
QUICK = ("sliding", "small", 1)


class Found(NamedTuple):
    scene: Scene
    ranks: list[dict[str, Any]]

    def row(self, name: str) -> dict[str, Any]:
        """Of all ranks: they must not differ."""
        rows = [rank["rows"][name] for rank in self.ranks]
        assert all(row == rows[0] for row in rows), rows
        return rows[0]


class Runs:
    """Each scene and number of ranks, run once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[tuple[str, str, int], Found] = {}

    def get(self, attention: str, weights: str, size: int) -> Found:
        case = attention, weights, size
        if case not in self._found:
            folder = self._folder / "-".join(map(str, case))
            folder.mkdir()
            source, sizes = ("small", SMALL) if weights == "small" else (real_model(), REAL)
            scene = Scene(source, attention == "full", **sizes)
            self._found[case] = Found(scene, run_ranks(scene, size, folder, timeout_s=1500))
        return self._found[case]


def real_model() -> str:
    try:
        return str(ensure_gemma3_270m())
    except ModelError as error:
        pytest.skip(f"THE REAL MODEL WAS NOT RUN: {error}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(
    params=[pytest.param(case, marks=[] if case == QUICK else LONG) for case in ALL],
    ids=lambda case: "-".join(map(str, case)),
)
def found(request: pytest.FixtureRequest, runs: Runs) -> Iterator[Found]:
    return runs.get(*request.param)


def test_every_answer_is_hots_bit_for_bit(found: Found) -> None:
    for name in found.ranks[0]["rows"]:
        assert found.row(name)["is_hot"], name
        assert found.row(name)["core"] == "NativeTree", name
    assert len(found.ranks[0]["rows"]) == 1 + 5 * len(POLICIES) + 1


@pytest.mark.parametrize("policy", POLICIES)
def test_each_tier_gives_the_whole_prompt(found: Found, policy: str) -> None:
    prompt = found.scene.prompt
    assert found.row("cold")["hits"] == [0, 0, 0]
    l3 = [0, prompt, 0] if policy == "best_effort" else [0, 0, prompt]  # in L2 when it is asked for
    assert found.row(f"{policy} L3")["hits"] == l3
    assert found.row(f"{policy} L1")["hits"] == [prompt, 0, 0]
    assert found.row(f"{policy} L2")["hits"] == [0, prompt, 0]


@pytest.mark.parametrize("policy", POLICIES)
def test_late_pages(found: Found, policy: str) -> None:
    """Who does not wait has the first batch, FULL pages up to half: no endpoint of windows."""
    row, scene = found.row(f"{policy} late"), found.scene
    waits = policy == "wait_complete"
    num_read = scene.prompt if waits else scene.half
    assert row["hits"] == [0, num_read if waits or scene.is_full_attention else 0, 0]
    assert bool(row["losses"]) != waits, row


def test_who_does_not_wait_has_nothing(found: Found) -> None:
    assert found.row("best_effort at once")["hits"] == [0, 0, 0]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_part_of_a_window_is_refused(found: Found, policy: str) -> None:
    row = found.row(f"{policy} lost page")
    assert row["attached"] == {} and row["losses"]
    assert row["hits"] == [0, found.scene.half if found.scene.is_full_attention else 0, 0]


def test_ranks_equal_each_other_and_one_process_but_for_noise(found: Found, runs: Runs) -> None:
    first, *others = [rank["hot"] for rank in found.ranks]
    assert all(torch.equal(first, other) for other in others)
    scene = found.scene
    if others:
        weights = "small" if scene.source == "small" else "real"
        single = runs.get("full" if scene.is_full_attention else "sliding", weights, 1)
        assert (first - single.ranks[0]["hot"]).abs().max() < NOISE
