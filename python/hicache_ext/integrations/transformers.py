"""A transformers `Cache` whose K and V live in paged pools.

One page table per pool: "full" for the layers that attend to everything, "swa" for the
sliding-window layers, which need only the last window_tokens - 1 tokens. The pools stay whoever's
they are: the cache is handed page ids and hands back the ones it no longer needs.

    cache = PagedCache(pattern, {"full": full_pool, "swa": swa_pool}, torch.float32)
    cache.restore(num_tokens, {"full": ids, "swa": ids_with_holes})      # from a match
    cache.append({name: alloc(name, n) for name, n in cache.num_missing_pages(q).items()})
    model(input_ids, past_key_values=cache)                              # q new tokens
    free(cache.trim())                                                   # out of the window

K and V come out exactly as they went in, and the gather has the shape and order of transformers'
own DynamicCache, so the logits are bit for bit those of a run that kept its cache in memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from hicache_ext.errors import LayoutError, PageIndexError
from hicache_ext.integrations.attention import AttentionPattern

HOLE = -1


class KvPool(Protocol):
    """The part of a DevicePool that is used here."""

    @property
    def spec(self) -> Any: ...

    def kv_view(self, dtype: torch.dtype) -> torch.Tensor:
        """[2, num_layers, num_pages, page_size, num_heads, head_dim], a view of the pool."""
        ...


class PageTable:
    """The page ids of one sequence in one pool, and the slots of its tokens."""

    def __init__(self, name: str, pool: KvPool, window_tokens: int | None) -> None:
        self.name = name
        self.page_size = int(pool.spec.page_size)
        self.num_pool_pages = int(pool.spec.num_pages)
        self.window_tokens = window_tokens
        self.page_ids: list[int] = []
        self._slots: dict[tuple[int, int], torch.Tensor] = {}

    def first_token(self, num_tokens: int) -> int:
        """The earliest position that the token after `num_tokens` others still sees."""
        if self.window_tokens is None:
            return 0
        return max(num_tokens - self.window_tokens + 1, 0)

    def set(self, page_ids: Sequence[int]) -> None:
        """Take these pages, one per page (-1: a hole); PageIndexError where one is out of range."""
        for position, page_id in enumerate(page_ids):
            if not HOLE <= page_id < self.num_pool_pages:
                raise PageIndexError(
                    f"pool {self.name}: page id {page_id} at position {position} "
                    f"is not in 0..{self.num_pool_pages - 1}"
                )
        self.page_ids = list(page_ids)
        self._slots.clear()

    def trim(self, num_tokens: int) -> list[int]:
        """Turn the pages before the window into holes and return their ids."""
        keep_from = self.first_token(num_tokens) // self.page_size
        freed = [page_id for page_id in self.page_ids[:keep_from] if page_id != HOLE]
        if freed:
            self.set([HOLE] * keep_from + self.page_ids[keep_from:])
        return freed

    def slots(self, begin: int, end: int) -> torch.Tensor:
        """int64 [end - begin]: page * page_size + offset of each position.

        Raises PageIndexError if a position lies in a hole or past the last page: a slot that was
        never written must not be read, not even under a mask (NaN times 0 is NaN).
        """
        cached = self._slots.get((begin, end))
        if cached is not None:
            return cached
        first, last = begin // self.page_size, -(-end // self.page_size)
        ids = self.page_ids[first:last]
        if len(ids) < last - first or HOLE in ids:
            missing = ids.index(HOLE) + first if HOLE in ids else len(self.page_ids)
            raise PageIndexError(
                f"pool {self.name}: positions {begin}..{end - 1} need pages {first}..{last - 1}, "
                f"page {missing} is absent ({len(self.page_ids)} pages in the table)"
            )
        base = torch.tensor(ids, dtype=torch.int64) * self.page_size
        every = (base[:, None] + torch.arange(self.page_size)).reshape(-1)
        if len(self._slots) >= 4:  # one forward uses two ranges; do not keep old steps
            self._slots.clear()
        result = every[begin - first * self.page_size : end - first * self.page_size]
        self._slots[(begin, end)] = result
        return result


class PagedLayer(CacheLayerMixin):
    """One attention layer's K and V, [slots, num_heads, head_dim] views of its pool."""

    def __init__(self, table: PageTable, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.is_sliding = table.window_tokens is not None
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device
        self.num_tokens = 0
        self._keys = keys.flatten(0, 1)
        self._values = values.flatten(0, 1)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the pool exists before the first token."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new rows [1, num_heads, q, head_dim]; return all rows the queries may see."""
        want = (1, self._keys.shape[1], key_states.shape[2], self._keys.shape[2])
        for what, states in (("K", key_states), ("V", value_states)):
            if tuple(states.shape) != want or states.dtype != self.dtype:
                raise LayoutError(
                    f"pool {self.table.name}: {what} of shape {tuple(states.shape)} "
                    f"{states.dtype}, the pages hold {want} {self.dtype}"
                )
        begin, end = self.num_tokens, self.num_tokens + key_states.shape[2]
        write = self.table.slots(begin, end)
        read = self.table.slots(self.table.first_token(begin), end)
        self._keys.index_copy_(0, write, key_states[0].transpose(0, 1))
        self._values.index_copy_(0, write, value_states[0].transpose(0, 1))
        self.num_tokens = end
        return self._gather(self._keys, read), self._gather(self._values, read)

    @staticmethod
    def _gather(rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        # Contiguous like DynamicCache's, so that attention takes the same code path.
        return rows.index_select(0, slots).transpose(0, 1).contiguous()[None]

    def get_seq_length(self) -> int:
        """Tokens seen so far: absolute, for sliding layers too (positions are derived from it)."""
        return self.num_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number and first position of the rows that update() of `query_length` tokens returns."""
        first = self.table.first_token(self.num_tokens)
        return self.num_tokens - first + query_length, first

    def get_max_length(self) -> int:
        return -1 if self.table.window_tokens is None else self.table.window_tokens

    def reset(self) -> None:
        self.num_tokens = 0


class PagedCache(Cache):
    """The K/V of one sequence (batch size 1) in paged pools; see the module's docstring.

    pools: pool name -> pool for `pattern.pools`, layer i of a pool being the i-th of its layers.
    Raises LayoutError if a pool's layers, heads or head size are not the pattern's.
    """

    def __init__(
        self, pattern: AttentionPattern, pools: Mapping[str, KvPool], dtype: torch.dtype
    ) -> None:
        self.pattern = pattern
        self.tables: dict[str, PageTable] = {}
        layers: dict[int, PagedLayer] = {}
        for name in pattern.pools:
            window = pattern.window_tokens if name == "swa" else None
            self.tables[name] = table = PageTable(name, pools[name], window)
            view = pools[name].kv_view(dtype)
            found = (view.shape[0], view.shape[1], view.shape[4], view.shape[5])
            want = (2, len(pattern.layers(name)), pattern.num_kv_heads, pattern.head_dim)
            if found != want:
                raise LayoutError(
                    f"pool {name} has (kv, layers, heads, head_dim)={found}, model has {want}"
                )
            for idx, layer_id in enumerate(pattern.layers(name)):
                layers[layer_id] = PagedLayer(table, view[0, idx], view[1, idx])
        super().__init__(layers=[layers[idx] for idx in range(pattern.num_layers)])

    @property
    def num_tokens(self) -> int:
        return int(self.layers[0].num_tokens)

    def page_ids(self, pool: str) -> list[int]:
        """The page table: one id per page of the sequence, -1 = hole (outside the window)."""
        return list(self.tables[pool].page_ids)

    def restore(self, num_tokens: int, pages: Mapping[str, Sequence[int]]) -> None:
        """Continue a sequence of `num_tokens` whose K and V are in `pages` (-1 = hole).

        Raises PageIndexError if a page that the next token needs is absent; then nothing changed.
        """
        before = self.num_tokens, {name: self.page_ids(name) for name in self.tables}
        try:
            self._install(num_tokens, pages)
            for table in self.tables.values():
                table.slots(table.first_token(num_tokens), num_tokens)
        except (PageIndexError, KeyError):
            self._install(*before)
            raise

    def _install(self, num_tokens: int, pages: Mapping[str, Sequence[int]]) -> None:
        for name, table in self.tables.items():
            table.set(pages[name])
        for layer in self.layers:
            layer.num_tokens = num_tokens

    def num_missing_pages(self, num_new_tokens: int) -> dict[str, int]:
        """Pages to append to each pool's table before a forward of `num_new_tokens`."""
        end = self.num_tokens + num_new_tokens
        return {
            name: max(-(-end // table.page_size) - len(table.page_ids), 0)
            for name, table in self.tables.items()
        }

    def append(self, pages: Mapping[str, Sequence[int]]) -> None:
        """Lengthen the page tables by freshly allocated pages."""
        for name, page_ids in pages.items():
            table = self.tables[name]
            table.set([*table.page_ids, *page_ids])

    def trim(self) -> dict[str, list[int]]:
        """Drop what no later token can see; the returned page ids are the caller's again.

        Only between forwards: the queries of one chunk together see window - 1 + chunk tokens.
        """
        return {name: table.trim(self.num_tokens) for name, table in self.tables.items()}
