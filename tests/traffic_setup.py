"""What a seed makes of the random traffic: ranks, settings and prompts."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from manual_io import ManualIo
from ranks import NUM_LAYERS, PAGE_SIZE, Ranks

from hicache_ext.flow.backup_line import WritePolicy
from hicache_ext.flow.prefetch_rules import PrefetchPolicy, PrefetchRules, ShortWindow
from hicache_ext.match import Match
from hicache_ext.tree import Strategy


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    namespace: bytes

    @property
    def num_pages(self) -> int:
        return len(self.tokens) // PAGE_SIZE


@dataclass
class Request:
    """A prompt and the match of each rank."""

    prompt: Prompt
    matches: list[Match]
    is_decoding: bool = False  # a window past its prompt, which it has released


def make_ranks(random: Random) -> Ranks:
    num_ranks = random.choice([1, 2, 2, 3])
    host_sizes = [random.choice([6, 16, 40])] * num_ranks
    if random.random() < 0.3:  # the vote must make up for it
        host_sizes = [random.choice([6, 10, 16, 40]) for _ in range(num_ranks)]
    has_mamba = random.random() < 0.3
    layers = {**NUM_LAYERS, "mamba": 1} if has_mamba else dict(NUM_LAYERS)
    sidecars = {"indexer": random.choice(list(layers))} if random.random() < 0.3 else {}
    return Ranks(
        num_ranks,
        make_io=ManualIo,
        num_device=random.choice([12, 24]),
        num_host=host_sizes,
        prefetch=make_rules(random),
        num_slots=random.choice([1, 2, 64]),
        num_endpoint_lanes=random.choice([1, 3, 128]),
        has_mamba=has_mamba,
        layers=layers | dict.fromkeys(sidecars, 2),
        sidecars=sidecars,
        write_policy=random.choice(list(WritePolicy)),
        backup_batch_pages=random.choice([1, 3, 1024]),
        load_back_threshold_tokens=random.choice([0, 0, 2 * PAGE_SIZE]),
        evict_strategy=random.choice([strategy.value for strategy in Strategy]),
    )


def make_rules(random: Random) -> PrefetchRules:
    return PrefetchRules(
        policy=random.choice(list(PrefetchPolicy)),
        timeout_s=random.choice([0.0, 1000.0]),
        threshold_tokens=random.choice([0, 0, PAGE_SIZE]),
        max_tokens=random.choice([None, 5 * PAGE_SIZE]),
        max_queries=random.choice([1, 3]),
        retry_ticks=random.choice([1, 4]),
        short_window=random.choice(list(ShortWindow)),
    )


def make_prompts(random: Random) -> list[Prompt]:
    """Shared prefixes, branches inside pages, a few lone sequences, two tenants."""
    system = [random.randrange(50) for _ in range(random.randrange(4, 24))]
    prompts: list[list[int]] = []
    for _ in range(6):
        base = random.choice([system, [], *prompts])
        cut = random.randrange(len(base) + 1)
        tail = [random.randrange(50) for _ in range(random.randrange(1, 24))]
        prompts.append((base[:cut] if random.random() < 0.3 else base) + tail)
    tenants = [b"", random.choice([b"", b"lora"])]
    return [Prompt(p[: 10 * PAGE_SIZE], random.choice(tenants)) for p in prompts]
