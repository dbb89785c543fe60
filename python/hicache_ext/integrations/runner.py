"""A serving loop for one request at a time: a transformers model over a HiCache.

    match -> prefetch, tick ... -> match -> load_back, tick ... -> prefill the rest -> decode

It is written to be read, and to be exact: the prompt is cut at multiples of chunk_tokens counted
from its start, wherever a restore ends, so that every run of a prompt does the same arithmetic.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hicache_ext.errors import CapacityError, LayoutError
from hicache_ext.flow.record import PrefetchRecord, Record, TransferRecord
from hicache_ext.integrations.model_pools import ModelCache
from hicache_ext.integrations.transformers import HOLE, PagedCache
from hicache_ext.match import Match
from hicache_ext.tier import Tier

_TICK_PAUSE_S = 0.0002  # between ticks that ended nothing: the I/O threads want the core more


@dataclass
class Reply:
    """An answer, and what it took. logits: float32 [num answer tokens, vocab]."""

    token_ids: list[int]
    logits: torch.Tensor
    num_hit_tokens: dict[Tier, int]
    num_prompt_tokens: int
    restore_s: float  # L3 and L2 to L1; 0 where nothing was restored
    prefill_s: float  # the forward passes over what was not restored
    first_token_s: float  # from the call to the first token
    decode_s: float
    num_read_bytes: int = 0  # L3 to L2
    num_copied_bytes: int = 0  # L2 to L1
    prefetch: PrefetchRecord | None = None


@dataclass
class _Restored:
    match: Match
    num_hit_tokens: dict[Tier, int]
    seconds: float
    prefetch: PrefetchRecord | None = None
    load_back: TransferRecord | None = None


@dataclass
class PagedRunner:
    """Serves requests on one rank; with several, all make the same calls in the same order.

    The model's weights must be those of the cache's store namespace. How long a request waits for
    L3 is what the cache's prefetch policy says.
    """

    model: Any
    pages: ModelCache
    chunk_tokens: int
    progress: Any = field(default=lambda stage, done, total: None)  # called between forwards

    def __post_init__(self) -> None:
        if self.chunk_tokens < 1 or self.chunk_tokens % self.pages.shape.page_size:
            raise LayoutError(
                f"chunk_tokens={self.chunk_tokens} is no multiple of "
                f"page_size={self.pages.shape.page_size}"
            )

    @torch.inference_mode()
    def answer(self, tokens: Sequence[int], num_new: int, *, shared: Sequence[int] = ()) -> Reply:
        """Continue `tokens` greedily by `num_new` tokens.

        shared: whole-page token counts at which the prompt's pages are handed to the cache (a
        window is kept at each); prefill stops there.
        """
        begin = time.perf_counter()
        restored = self.restore(tokens)
        cache, match = self.pages.cache, restored.match
        sequence = PagedCache(self.pages.shape.pattern, self.pages.device, self.pages.shape.dtype)
        try:
            sequence.restore(match.num_device_tokens, match.pages)
            restore_s = time.perf_counter() - begin
            logits = self._prefill(sequence, match, tokens, shared)
            first_token_s = time.perf_counter() - begin
            rows = [logits]
            for step in range(1, num_new):
                self.progress("answer", step, num_new)
                cache.tick()
                rows.append(self._forward(sequence, match, [int(rows[-1].argmax())]))
            decode_s = time.perf_counter() - begin - first_token_s
        finally:
            self._drop(sequence, match)
        all_logits = torch.stack(rows)
        return Reply(
            token_ids=all_logits.argmax(-1).tolist(),
            logits=all_logits,
            num_hit_tokens=restored.num_hit_tokens,
            num_prompt_tokens=len(tokens),
            restore_s=restore_s,
            prefill_s=first_token_s - restore_s,
            first_token_s=first_token_s,
            decode_s=decode_s,
            num_read_bytes=restored.prefetch.num_read_bytes if restored.prefetch else 0,
            num_copied_bytes=restored.load_back.num_copied_bytes if restored.load_back else 0,
            prefetch=restored.prefetch,
        )

    def restore(self, tokens: Sequence[int]) -> _Restored:
        """Bring the longest cached prefix of `tokens` to L1; the caller releases the match.

        At least one token is left to compute, since its logits are what is wanted.
        """
        begin = time.perf_counter()
        cache = self.pages.cache
        match = cache.match(tokens[:-1])
        hits = {Tier.DEVICE: match.num_device_tokens, Tier.HOST: match.num_host_tokens}
        num_local = match.num_tokens
        prefetch = self._prefetch(tokens)
        if prefetch is not None:
            cache.release(match)
            match = cache.match(tokens[:-1])
        load_back = self._await(cache.load_back(match))
        hits[Tier.STORAGE] = match.num_tokens - num_local
        return _Restored(match, hits, time.perf_counter() - begin, prefetch, load_back)

    def _prefetch(self, tokens: Sequence[int]) -> PrefetchRecord | None:
        """Ticks for as long as the request should wait; the record, if it has ended by then."""
        cache = self.pages.cache
        op_id = cache.prefetch(tokens)
        ended: PrefetchRecord | None = None
        while op_id is not None and ended is None and not cache.poll(op_id):
            ended = self._tick(op_id)
        return ended

    def _await(self, op_id: int | None) -> Any:
        """Tick until the op ends; its record (every rank gets it at the same tick), or None."""
        ended = None
        while op_id is not None and ended is None:
            ended = self._tick(op_id)
        return ended

    def _tick(self, op_id: int) -> Any:
        """One tick; the record of `op_id` if it ended in this one."""
        ended: list[Record] = self.pages.cache.tick()
        if not ended:
            time.sleep(_TICK_PAUSE_S)
        return next((record for record in ended if record.op_id == op_id), None)

    def _prefill(
        self, sequence: PagedCache, match: Match, tokens: Sequence[int], shared: Sequence[int]
    ) -> torch.Tensor:
        logits = None
        while (begin := sequence.num_tokens) < len(tokens):
            stops = [(begin // self.chunk_tokens + 1) * self.chunk_tokens, *shared, len(tokens)]
            end = min(stop for stop in stops if stop > begin)
            logits = self._forward(sequence, match, tokens[begin:end])
            if end in shared:
                self._share(sequence, match, tokens[:end])
            self.progress("prefill", end, len(tokens))
            self.pages.cache.tick()
        assert logits is not None  # restore() leaves one token at least
        return logits

    def _forward(
        self, sequence: PagedCache, match: Match, token_ids: Sequence[int]
    ) -> torch.Tensor:
        """Logits after the last of `token_ids`, float32 [vocab]."""
        missing = sequence.num_missing_pages(len(token_ids))
        pages = self.pages.cache.alloc(missing)
        if pages is None:
            raise CapacityError(f"no device pages for {len(token_ids)} tokens: need {missing}")
        sequence.append(pages)
        # One row of logits: all rows of a long prompt would take gigabytes.
        output = self.model(
            torch.tensor([list(token_ids)]), past_key_values=sequence, logits_to_keep=1
        )
        self._free(sequence.trim(), match)
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def _share(self, sequence: PagedCache, match: Match, tokens: Sequence[int]) -> None:
        names = self.pages.shape.pattern.pools
        self.pages.cache.insert(match, tokens, {name: sequence.page_ids(name) for name in names})
        # The tree may have had some of the pages; from here on its ids count.
        sequence.restore(match.num_device_tokens, match.pages)

    def _free(self, pages: dict[str, list[int]], match: Match) -> None:
        """Give back the pages that are ours, not the tree's."""
        mine = {}
        for name, page_ids in pages.items():
            shared = set(match.pages[name])
            mine[name] = [i for i in page_ids if i != HOLE and i not in shared]
        self.pages.cache.free(mine)

    def _drop(self, sequence: PagedCache, match: Match) -> None:
        names = self.pages.shape.pattern.pools
        self._free({name: sequence.page_ids(name) for name in names}, match)
        self.pages.cache.release(match)
