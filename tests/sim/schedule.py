"""What a seed decides before anything runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from hicache_ext.flow.backup_line import WritePolicy
from hicache_ext.flow.prefetch_rules import PrefetchPolicy, PrefetchRules, ShortWindow

from .memory import PAGE_SIZE

MAX_PROMPT_PAGES = 8
NUM_PROMPTS = 5


class Fate(Enum):
    """What befalls one rank, once, at some time. The others must hear of it within the deadline."""

    NONE = "none"
    DIES = "dies"  # killed: says nothing any more
    LEAVES = "leaves"  # closes its cache and its group
    STALLS = "stalls"  # for longer than the deadline, then goes on
    RESTARTS = "restarts"  # a new process in its seat begins with tick 1
    GARBAGE = "garbage"  # one lane of a header is not what it was


@dataclass(frozen=True)
class Prompt:
    tokens: tuple[int, ...]
    namespace: bytes

    @property
    def num_pages(self) -> int:
        return len(self.tokens) // PAGE_SIZE


@dataclass(frozen=True)
class Schedule:
    """All of one run. Each rank draws its delays and faults from `rank_seeds`, the calls of all
    ranks come from `script_seed`."""

    seed: int
    num_ranks: int
    num_steps: int
    num_slots: int
    tick_depth: int
    num_device_pages: int
    num_host_pages: tuple[int, ...]  # per rank: the vote must make up for it
    window_tokens: int | None
    prefetch: PrefetchRules
    write_policy: WritePolicy
    tick_ms: tuple[int, ...]  # per rank: some are slow
    io_ms: int
    net_ms: int
    copy_fail_rate: float
    trouble_rate: float  # each time a rank runs
    abort_rate: float  # each time a rank runs
    starts_with_store: bool
    fill_rate: float  # window pages in L3 from an earlier process
    prompts: tuple[Prompt, ...]
    fate: Fate
    fate_rank: int
    fate_ms: int
    deadline_ms: int
    script_seed: int
    rank_seeds: tuple[int, ...]
    check: str  # HICACHE_CHECK
    num_endpoint_lanes: int


def make_schedule(seed: int) -> Schedule:
    rng = random.Random(seed)
    num_ranks = rng.choices(range(1, 9), (1, 5, 4, 1, 0.3, 0.3, 0.2, 0.2))[0]
    host = [rng.choice([4, 8, 12, 24])] * num_ranks
    if rng.random() < 0.4:
        host = [rng.choice([4, 7, 8, 12, 24]) for _ in range(num_ranks)]
    is_fatal = rng.random() < 0.3 and num_ranks > 1
    is_calm = rng.random() < 0.3  # no faults: then nothing may be lost either
    num_steps = rng.choice([6, 12, 20])
    return Schedule(
        seed=seed,
        num_ranks=num_ranks,
        num_steps=num_steps,
        num_slots=rng.choice([1, 2, 8]),
        tick_depth=rng.choice([0, 1]),
        num_device_pages=rng.choice([6, 10, 20]),
        num_host_pages=tuple(host),
        window_tokens=rng.choice([1, 3, 3, 5, None]),
        prefetch=make_rules(seed, rng.choice([0, 0, 4]), rng.choice(list(ShortWindow))),
        write_policy=random.Random(f"write policy {seed}").choice(list(WritePolicy)),
        tick_ms=tuple(rng.choice([5, 10, 10, 40]) for _ in range(num_ranks)),
        io_ms=rng.choice([0, 2, 10, 40]),
        net_ms=rng.choice([0, 1, 15]),
        copy_fail_rate=0.0 if is_calm else 0.03,
        trouble_rate=0.0 if is_calm else rng.choice([0.05, 0.2]),
        abort_rate=rng.choice([0.0, 0.0, 0.05, 0.15]),
        starts_with_store=rng.random() < 0.85,
        fill_rate=rng.choice([0.3, 0.8, 1.0, 1.0]),
        prompts=make_prompts(rng),
        fate=rng.choice(list(Fate)[1:]) if is_fatal else Fate.NONE,
        fate_rank=rng.randrange(num_ranks),
        fate_ms=rng.randrange(10 * num_steps),
        deadline_ms=1000,
        script_seed=rng.randrange(1 << 30),
        rank_seeds=tuple(rng.randrange(1 << 30) for _ in range(num_ranks)),
        num_endpoint_lanes=rng.choice([1, 3, 16]),
        check=rng.choice(["", "", "", "full"]),
    )


def make_rules(seed: int, threshold_tokens: int, short_window: ShortWindow) -> PrefetchRules:
    """Of each policy; few let a prefetch through that another one is not to stop."""
    rng = random.Random(f"prefetch rules {seed}")
    return PrefetchRules(
        policy=rng.choice(list(PrefetchPolicy)),
        timeout_s=rng.choice([0.01, 0.05, 0.2]),
        threshold_tokens=threshold_tokens,
        max_tokens=rng.choice([None, None, 3 * PAGE_SIZE, MAX_PROMPT_PAGES * PAGE_SIZE]),
        max_queries=rng.choice([1, 1, 2, 4]),
        retry_ticks=rng.choice([1, 3]),
        hang_s=rng.choice([5.0, 5.0, 5.0, 0.03]),
        short_window=short_window,
    )


def make_prompts(rng: random.Random) -> tuple[Prompt, ...]:
    """Shared prefixes, branches inside pages, a few lone sequences, two tenants."""
    system = [rng.randrange(50) for _ in range(rng.randrange(2, 12))]
    prompts: list[list[int]] = []
    for _ in range(NUM_PROMPTS):
        base = rng.choice([system, [], *prompts])
        cut = rng.randrange(len(base) + 1)
        tail = [rng.randrange(50) for _ in range(rng.randrange(1, 12))]
        prompts.append((base[:cut] if rng.random() < 0.3 else base) + tail)
    tenants = [b"", rng.choice([b"", b"lora"])]
    limit = MAX_PROMPT_PAGES * PAGE_SIZE
    return tuple(Prompt(tuple(p[:limit]), rng.choice(tenants)) for p in prompts)
