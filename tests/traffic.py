"""Random traffic on 1 to 3 ranks with copies on streams and failing stores, see test_cache_fuzz."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from ranks import PAGE_SIZE, Rank, check_device, keys_of_pages, read_page
from retraction import Retraction
from stream_copies import StreamCopies
from traffic_setup import Request, make_prompts, make_ranks

from hicache_ext.pool import PageState
from hicache_ext.storage.faulty import Answer
from hicache_ext.tier import Tier


class Traffic:
    """One seed's run: the same calls on every rank, other faults on each."""

    def __init__(self, seed: int, copies: StreamCopies) -> None:
        self.random = random.Random(seed)
        self.ranks = make_ranks(self.random)
        self.kinds = list(self.ranks[0].cache.pools.names)
        self.sidecars = self.ranks[0].cache.config.sidecars
        self.write, self.last_read = copies.write, copies.read
        for rank in self.ranks:
            copies.pin([*rank.device.values(), *rank.host.values()])
            rank.store.content = rank.content
        self.faults = [random.Random(seed * 1000 + r.rank) for r in self.ranks]
        self.prompts = make_prompts(self.random)
        if self.random.random() < 0.7:
            self._fill_stores()
        self.op_ids: list[int] = []
        self.aborted_in: Counter[str] = Counter()  # phases of prefetches at their abort
        self.held: list[Request] = []
        self.decoding: list[Request] = []
        self.retraction = Retraction(self)
        self.is_quiet = False  # publish and apply with nothing in between

    def _fill_stores(self) -> None:
        """What an earlier process has left in L3, on each rank with gaps of its own."""
        for prompt in self.prompts:
            keys = keys_of_pages(prompt.tokens, prompt.namespace)
            for rank, fault in zip(self.ranks, self.faults, strict=True):
                for pool in rank.device:
                    rank.put(pool, [key for key in keys if fault.random() < 0.97])

    # -- requests ----------------------------------------------------------------------------

    def look(self) -> None:
        """A request comes: it matches, and most load back what the host has at once."""
        prompt = self.random.choice(self.prompts)
        matches = self.ranks.each(lambda r: r.cache.match(prompt.tokens, prompt.namespace))
        self.held.append(Request(prompt, matches))
        self._check(self.held[-1])
        if self.random.random() < 0.6:
            self._load_back(self.held[-1])

    def load_back(self) -> None:
        """A match that was held for some time is still good for it."""
        if self.held:
            self._load_back(self.random.choice(self.held))

    def _load_back(self, request: Request) -> None:
        if request.matches[0].loading:
            return
        quota = self.random.choice([None, None, 4 * PAGE_SIZE])
        needs = []
        for rank, match in zip(self.ranks, request.matches, strict=True):
            need = rank.cache.device_need(match, num_new_tokens=PAGE_SIZE)
            needs.append((need, rank.cache.can_admit(need)))
            is_more = quota is not None and match.num_host_tokens > quota
            assert rank.cache.load_back(match, quota) is None or not is_more
        assert all(need == needs[0] for need in needs)

    def decode(self) -> None:
        """A request gets a window past its prompt, and gives those locks back."""
        idle = [request for request in self.held if not request.matches[0].loading]
        if idle:
            request = self.random.choice(idle)
            self.held.remove(request)
            self.decoding.append(request)
            request.is_decoding = True
            for rank, match in zip(self.ranks, request.matches, strict=True):
                rank.cache.release_windows(match)
                assert {i for ids in list(match.pages.values())[1:] for i in ids} <= {-1}

    def prefill(self) -> None:
        """A request computes a chunk of what it lacks; it may give up, or find L1 full."""
        if not self.held or self.random.random() < 0.5:
            self.look()
        request = self.random.choice(self.held[-3:])
        prompt, matches = request.prompt, request.matches
        num_done = len(matches[0].pages["full"])
        num_new = min(prompt.num_pages - num_done, self.random.choice([1, 2, 4, 10]))
        if num_new <= 0:
            return
        new = self.alloc_filled(request, num_new)
        if new is None:
            return
        gives_up, priority = self.random.random() < 0.1, self.random.choice([0, 0, 3])
        tokens = prompt.tokens[: (num_done + num_new) * PAGE_SIZE]
        for rank, match, pages in zip(self.ranks, matches, new, strict=True):
            if gives_up:
                rank.cache.free(pages)
            else:
                given = {name: match.pages[name] + pages[name] for name in pages}
                rank.cache.insert(match, tokens, given, priority)
        if self.random.random() < 0.5:  # to look is to wait for copies under way
            self._check(request)

    def alloc_filled(self, request: Request, num_new: int) -> list[dict[str, list[int]]] | None:
        """What a forward pass has written behind the match: by rank, one id per page and pool, a
        state for the last page only. None if L1 is full.
        """
        need = {name: min(1, num_new) if name == "mamba" else num_new for name in self.kinds}
        new = self.ranks.each(lambda r: r.cache.alloc(need))
        assert len({pages is None for pages in new}) == 1
        if new[0] is None:
            return None
        num_done = len(request.matches[0].pages["full"])
        tokens = request.prompt.tokens[: (num_done + num_new) * PAGE_SIZE]
        for rank, pages in zip(self.ranks, new, strict=True):
            for name, ids in pages.items():
                pages[name] = [-1] * (num_new - len(ids)) + ids
            filled = {name: [-1] * num_done + ids for name, ids in pages.items()}
            everything = self.with_sidecars(filled)
            rank.write_device(tokens, everything, request.prompt.namespace, self.write)
        return new

    def with_sidecars(self, pages: dict[str, list[int]]) -> dict[str, list[int]]:
        """They have no ids of their own."""
        return pages | {sidecar: pages[name] for sidecar, name in self.sidecars.items()}

    def release(self) -> None:
        those = self.random.choice([self.held, self.decoding] if self.decoding else [self.held])
        if those:
            request = those.pop(self.random.randrange(len(those)))
            self._check(request, self.last_read)
            for rank, match in zip(self.ranks, request.matches, strict=True):
                rank.cache.release(match)

    def _check(self, request: Request, read: Callable[..., None] = read_page) -> None:
        for rank, match in zip(self.ranks, request.matches, strict=True):
            num_pages = match.num_device_tokens // PAGE_SIZE
            assert {len(ids) for ids in match.pages.values()} == {num_pages}
            needed = {"full": num_pages, "swa": 3, "mamba": 1}
            for name in ["full"] if request.is_decoding else self.kinds:
                assert -1 not in match.pages[name][-needed[name] :], name
            tokens = request.prompt.tokens[: match.num_device_tokens]
            pages = self.with_sidecars(match.pages)
            check_device(rank, tokens, pages, request.prompt.namespace, read)
            for name, ids in match.pages.items():
                allocator = rank.device[name].allocator
                assert {allocator.state(i) for i in ids if i >= 0} <= {PageState.ATTACHED}

    def prefetch(self) -> None:
        prompt = self.random.choice(self.prompts)
        tokens = [*prompt.tokens, 7]
        op_ids = self.ranks.each(lambda r: r.cache.prefetch(tokens, prompt.namespace))
        assert len(set(op_ids)) == 1
        if op_ids[0] is not None:
            self.op_ids.append(op_ids[0])

    def poll(self) -> None:
        """The requests of some prefetches could go on; every rank hears the same."""
        for op_id in self.op_ids[-3:]:
            assert len(set(self.ranks.each(lambda r, op=op_id: r.cache.poll(op)))) == 1

    def abort(self) -> None:
        """Mostly of a prefetch that is in flight, in whatever phase; often not on all ranks."""
        held = self.ranks[0].cache._engine._ops._held.values()
        phases = {op.op_id: op.phase.name for op in held if op.op_id in self.op_ids}
        if self.op_ids:
            phase = self.random.choice([*sorted(set(phases.values())), ""])
            in_it = [op_id for op_id, now in phases.items() if now == phase]
            op_id = self.random.choice(in_it or self.op_ids)
            self.aborted_in.update([phases.get(op_id, "over or in line")])
            whom = [r for r in self.ranks if self.random.random() < 0.7]
            for rank in whom:
                rank.cache.abort(op_id)

    # -- what befalls them -------------------------------------------------------------------

    def evict(self) -> None:
        tier = self.random.choice([Tier.DEVICE, Tier.HOST])
        need = {name: self.random.randrange(5) for name in self.kinds}
        self.ranks.each(lambda r: r.cache.evict(tier, need))

    def flush(self) -> None:
        if not self.ranks[0].cache.num_in_flight:
            tiers = self.random.choice([[Tier.DEVICE], [Tier.HOST], [Tier.DEVICE, Tier.HOST]])
            self.ranks.each(lambda r: r.cache.flush(*tiers))

    def lose(self) -> None:
        """Each store loses pages of its own; a rank that lost one must not go its own way."""
        for rank, fault in zip(self.ranks, self.faults, strict=True):
            for pool in rank.device:
                keys = list(rank.store.inner._pages[pool])
                if keys and fault.random() < 0.3:
                    key = fault.choice(keys)
                    rank.store.inner.remove(pool, [key])
                if keys and fault.random() < 0.3:
                    rank.store.faults.lost_on_read = {(pool, fault.choice(keys))}

    def trouble(self) -> None:
        """Stores that raise, answer short or nothing, or do not write; most get well again."""
        for rank, fault in zip(self.ranks, self.faults, strict=True):
            faults = rank.store.faults
            faults.raising, faults.answers, faults.write_rate = set(), {}, 0.0
            if fault.random() < 0.3:
                faults.raising = {fault.choice(["exists", "read_into", "write_from"])}
            if fault.random() < 0.3:
                faults.answers = {fault.choice(self.kinds): fault.choice(list(Answer))}
            if fault.random() < 0.3:
                faults.write_rate = 0.3

    def tick(self) -> None:
        """I/O threads get further on some ranks than on others; calls come in between."""
        for rank, fault in zip(self.ranks, self.faults, strict=True):
            if fault.random() < 0.7:
                rank.io.run()
        self.ranks.each(lambda r: r.cache.publish())
        if not self.is_quiet and self.random.random() < 0.3:
            self.random.choice([self.prefill, self.release, self.prefetch, self.abort])()
        self.ranks.each(lambda r: r.cache.apply())
        self.retraction.settle()

    def ticks(self) -> None:
        """An op takes a step in as many."""
        for _ in range(1 + self.ranks[0].depth):
            self.tick()

    def step(self) -> None:
        steps: list[tuple[Callable[[], None], float]] = [
            (self.prefill, 4),
            (self.look, 2),
            (self.load_back, 1),
            (self.release, 3),
            (self.decode, 0.5),
            (self.prefetch, 3),
            (self.poll, 2),
            (self.abort, 2),
            (self.retraction.park, 1),
            (self.retraction.come_back, 2),
            (self.evict, 1),
            (self.flush, 1),
            (self.lose, 1),
            (self.trouble, 0.5),
            (self.ticks, 10),
        ]
        calls, weights = zip(*steps, strict=True)
        self.random.choices(calls, weights)[0]()
        self.ranks.check()

    # -- the end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """Drains or closes with ops in flight, then gives everything back: nothing is left."""
        if self.random.random() < 0.3:
            if self.random.random() < 0.3:
                self.ranks.each(lambda r: r.cache.publish())
            self.ranks.each(lambda r: r.cache.close())
        self.is_quiet = True
        is_closed = self.ranks[0].cache._engine._closed
        self.retraction.wind_up(is_closed)
        self._release_all()
        for _ in range(0 if is_closed else 20_000):  # the emulated GPU moves as it is asked
            if not self.ranks[0].cache.num_in_flight:
                break
            self.tick()
        assert is_closed or not self.ranks[0].cache.num_in_flight
        self.retraction.finish(is_closed)
        self._release_all()
        self.ranks.check_idle()
        for prompt in self.prompts:
            self.ranks.each(lambda r, p=prompt: r.check_host(p.tokens, p.namespace))
        for rank in self.ranks:
            self._check_empty(rank)
        self.ranks.close()

    def _release_all(self) -> None:
        while self.held or self.decoding:
            self.release()
        self.ranks.each(lambda r: r.wait_for_copies())

    def _check_empty(self, rank: Rank) -> None:
        """Nothing is locked: the tree gives everything up."""
        assert not rank.cache.tree._state.receipts
        for tier in (Tier.DEVICE, Tier.HOST):
            rank.cache.pools.take_back(rank.cache.tree.clear(tier))
        for pool in (*rank.device.values(), *rank.host.values()):
            assert pool.allocator.counts()[PageState.FREE] == pool.capacity
