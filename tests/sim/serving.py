"""The scheduler of one rank. Every rank makes the same calls in the same order: the script draws
from one seed, and what else it looks at is what the cache says, which must be the same everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from hicache_ext.flow.op import Phase
from hicache_ext.flow.record import PrefetchRecord, Record
from hicache_ext.match import Match
from hicache_ext.tier import Tier

from .clock import MAX_SCALE
from .memory import PAGE_SIZE
from .rank import SimRank, keys_of
from .schedule import Prompt, Schedule

WAIT = -1
"""Yielded where the rank waits for the others; a number >= 0 is a pause in ms."""

ABORTED_PHASES = (Phase.QUERY, Phase.ASK, Phase.RESERVE, Phase.READ, Phase.READ)


@dataclass
class Request:
    prompt: Prompt
    match: Match


class Observer(Protocol):
    """Who looks at what a rank does."""

    def say(self, text: str) -> None:
        """What every rank must see alike."""

    def asked(self, op_id: int, prompt: Prompt) -> None:
        """A prefetch is on its way."""

    def applied(self, records: list[Record]) -> None:
        """A tick is over."""


class Serving:
    """Runs the script on one rank."""

    def __init__(self, schedule: Schedule, rank: SimRank, observer: Observer) -> None:
        self.rank = rank
        self.held: list[Request] = []
        self._in_flight: list[int] = []  # prefetches
        self.is_quiet = False
        self._schedule = schedule
        self._script = random.Random(schedule.script_seed)
        self._polls = random.Random(schedule.script_seed + 1)
        self._observer = observer
        self._say = observer.say
        self._calls: list[Callable[[], None]] = [
            self._prefill,
            self._look,
            self._load_back,
            self._release,
            self._prefetch,
            self._evict,
            self._flush,
            self._switch_store,
        ]
        self._weights = (4, 3, 1, 3, 4, 2, 1, 0.7)

    def run(self) -> Iterator[int]:
        """The script, then ticks until everything is over."""
        for _ in range(self._schedule.num_steps):
            for _ in range(self._script.randrange(4)):
                self._call()
            self._poll()
            yield from self._tick()
        self.is_quiet = True
        self.rank.store.heal()
        while self.held:
            self._release()
        for _ in range(self._max_ticks()):
            if not self.rank.cache.num_in_flight:
                while len(lent := self.rank.cache._ctx.lent):  # calls that were given up
                    yield 1
                    lent.take_back()
                self.rank.check_idle()
                return
            yield from self._tick()
        raise AssertionError(f"{self.rank.cache.num_in_flight} ops make no progress")

    def _max_ticks(self) -> int:
        """Ticks that the ops in flight may need, one after the other: in each phase a few to agree,
        and those that pass during its I/O; and those that look for a common endpoint."""
        io_ticks = MAX_SCALE * self._schedule.io_ms // min(self._schedule.tick_ms)
        num_pages = max(len(prompt.tokens) for prompt in self._schedule.prompts) // PAGE_SIZE
        ask_ticks = 2 * (num_pages // self._schedule.num_endpoint_lanes + 1)
        rules = self._schedule.prefetch
        rest_ticks = rules.max_queries * (rules.retry_ticks + 4 + io_ticks)
        return 1 + self.rank.cache.num_in_flight * (4 * (4 + io_ticks) + ask_ticks + rest_ticks)

    def _tick(self) -> Iterator[int]:
        self.rank.cache.publish()
        if not self.is_quiet and self._script.random() < 0.3:
            self._call()
        yield WAIT
        records = self.rank.cache.apply()
        for record in records:
            if isinstance(record, PrefetchRecord):
                self._in_flight.remove(record.op_id)
        self._observer.applied(records)
        yield self._schedule.tick_ms[self.rank.rank]

    def _call(self) -> None:
        self._script.choices(self._calls, self._weights)[0]()

    # -- the calls -----------------------------------------------------------------------------

    def _look(self) -> None:
        """A request comes: it matches, and most load back what the host has at once."""
        prompt = self._script.choice(self._schedule.prompts)
        match = self.rank.cache.match(prompt.tokens, prompt.namespace)
        self._say(f"match {self._name(prompt)}: {match.num_device_tokens} of {match.num_tokens}")
        self.held.append(Request(prompt, match))
        self._check(self.held[-1])
        if self._script.random() < 0.6:
            self._load(self.held[-1])

    def _load_back(self) -> None:
        """A match that was held for some time is still good for it."""
        if self.held:
            self._load(self._script.choice(self.held))

    def _load(self, request: Request) -> None:
        if not request.match.loading:
            op_id = self.rank.cache.load_back(request.match)
            self._say(f"load_back {self._name(request.prompt)}: op {op_id}")

    def _prefill(self) -> None:
        """A request computes a chunk of what it lacks; it may give up, or find L1 full."""
        if not self.held or self._script.random() < 0.5:
            self._look()
        request = self._script.choice(self.held[-3:])
        prompt, match = request.prompt, request.match
        num_done = len(match.pages["full"])
        num_new = min(prompt.num_pages - num_done, self._script.choice([1, 2, 4, 8]))
        if num_new <= 0:
            return
        new = self.rank.cache.alloc(dict.fromkeys(self.rank.device, num_new))
        gives_up = self._script.random() < 0.1
        end = (num_done + num_new) * PAGE_SIZE
        what = "no pages" if new is None else "gives up" if gives_up else "inserted"
        self._say(f"prefill {self._name(prompt)} up to {end}: {what}")
        if new is None:
            return
        self.rank.write(keys_of(prompt)[num_done : num_done + num_new], new)
        if gives_up:
            self.rank.cache.free(new)
        else:
            given = {name: match.pages[name] + new[name] for name in new}
            self.rank.cache.insert(match, prompt.tokens[:end], given)
            self._check(request)

    def _release(self) -> None:
        if self.held:
            request = self.held.pop(self._script.randrange(len(self.held)))
            self._check(request)
            self._say(f"release {self._name(request.prompt)}")
            self.rank.cache.release(request.match)

    def _prefetch(self) -> None:
        prompt = self._script.choice(self._schedule.prompts)
        op_id = self.rank.cache.prefetch([*prompt.tokens, 7], prompt.namespace)
        self._say(f"prefetch {self._name(prompt)}: op {op_id}, {self.rank.cache.refusal}")
        if op_id is not None:
            self._in_flight.append(op_id)
            self._observer.asked(op_id, prompt)

    def _poll(self) -> None:
        """The requests of some prefetches are next in line."""
        for op_id in self._in_flight:
            if self._polls.random() < 0.3:
                self._say(f"poll {op_id}: goes on {self.rank.cache.poll(op_id)}")

    def _evict(self) -> None:
        tier = self._script.choice([Tier.DEVICE, Tier.HOST])
        need = {name: self._script.randrange(6) for name in self.rank.device}
        self._say(f"evict {tier.name} {need}")
        self.rank.cache.evict(tier, need)

    def _flush(self) -> None:
        tiers = self._script.choice([[Tier.DEVICE], [Tier.HOST], [Tier.DEVICE, Tier.HOST]])
        if not self.rank.cache.num_in_flight:
            self._say(f"flush {[tier.name for tier in tiers]}")
            self.rank.cache.flush(*tiers)

    def _switch_store(self) -> None:
        """Attaches, detaches or clears L3 under whatever is in flight; a rank may have none to
        attach, and its store may refuse to clear.
        """
        cache, ctx = self.rank.cache, self.rank.cache._ctx
        if ctx.is_switching or (ctx.store is not None and self._script.random() < 0.4):
            return
        if ctx.store is not None:
            op_id = cache.detach_store() if self._script.random() < 0.7 else cache.clear_store()
        else:
            is_lost = self.rank.rng.random() < self._schedule.trouble_rate
            op_id = cache.attach_store(None if is_lost else self.rank.store)
        self._say(f"switch of the store: op {op_id}")

    # -- for the world -------------------------------------------------------------------------

    def abort(self) -> int | None:
        """The client of a prefetch is gone; this rank may be the first to know.

        By phase, as most of the time is spent asking the store.
        """
        phase = self.rank.rng.choice(ABORTED_PHASES)
        ops = [self.rank.cache._prefetches[op_id] for op_id in self._in_flight]
        found = [op.op_id for op in ops if op.phase == phase]
        if not found:
            return None
        op_id = self.rank.rng.choice(found)
        self.rank.cache.abort(op_id)
        return op_id

    def give_up(self) -> None:
        """The ranks no longer agree: closes the cache, drops what requests hold."""
        self.rank.cache.close()
        while self.held:
            self.rank.cache.release(self.held.pop().match)

    def _check(self, request: Request) -> None:
        match, keys = request.match, keys_of(request.prompt)
        num_pages = match.num_device_tokens // PAGE_SIZE
        for name, ids in match.pages.items():
            assert len(ids) == num_pages, f"{name}: {len(ids)} ids for {num_pages} pages"
            window = self.rank.cache._windows.get(name, num_pages)
            assert -1 not in ids[max(0, num_pages - window) :], f"{name}: {ids}"
        self.rank.check_pages(keys, match.pages, Tier.DEVICE)

    def _name(self, prompt: Prompt) -> str:
        return f"p{self._schedule.prompts.index(prompt)}"
