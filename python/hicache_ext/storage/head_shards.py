"""Pages of a rank as objects of head groups, so that any tensor-parallel size reads them.

The least common multiple of the sizes cuts the KV heads into `total` shares. A rank of a smaller
size holds several of them: each page becomes one object per share and contiguous run of its bytes,
and neither the rank nor the size is in the object's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from ..errors import LayoutError
from .namespace import StoreNamespace
from .pieces import MAX_RUNS, Piece, PieceStore, ReplicaStore
from .protocol import PageStore

if TYPE_CHECKING:  # a store needs neither numpy nor torch
    from ..layout import LayoutSpec

REPLICATED = "replicated"  # StoreNamespace.shard where all ranks hold the same bytes


@dataclass(frozen=True)
class HeadShards:
    """Shares `first` to `first + count - 1` of `total`: what one rank holds of the KV heads.

    Of the ranks that hold the same shares one has `is_writer`; all may read.
    """

    first: int
    count: int
    total: int
    is_writer: bool = True

    @classmethod
    def of_rank(
        cls, rank: int, num_ranks: int, *, num_shards: int = 0, num_kv_heads: int = 0
    ) -> HeadShards:
        """num_shards: a multiple of every tensor-parallel size that shares pages; 0: num_ranks.
        num_kv_heads: of the whole model; where ranks are more, neighbours hold the same head, as
        engines replicate it. 0: not known, every rank's heads are its own.

        LayoutError where ranks, shares and heads do not divide each other.
        """
        total = num_shards or num_ranks
        if num_kv_heads:
            total = min(total, num_kv_heads)
        is_valid = 0 <= rank < num_ranks and total > 0 and num_kv_heads >= 0
        if not is_valid or max(total, num_ranks) % min(total, num_ranks) or num_kv_heads % total:
            raise LayoutError(
                f"rank={rank} of num_ranks={num_ranks} with num_shards={num_shards}, "
                f"num_kv_heads={num_kv_heads}: they must divide each other"
            )
        if num_ranks > total:
            num_alike = num_ranks // total
            return cls(rank // num_alike, 1, total, is_writer=rank % num_alike == 0)
        count = total // num_ranks
        return cls(rank * count, count, total)

    @property
    def names(self) -> list[str]:
        """StoreNamespace.shard of each share."""
        return [f"{i}/{self.total}" for i in range(self.first, self.first + self.count)]


def piece_pool(pool: str, shard: str, run: int) -> str:
    """The inner pool of run `run` of a share; the same for every size that cuts it so."""
    return f"{pool}_{shard.replace('/', 'of')}_{run}"


def cut_by_heads(
    pool: str, spec: LayoutSpec, shards: HeadShards
) -> Iterator[tuple[Piece, str, dict[str, int | str]]]:
    """(piece, shard, layout fields for its namespace) of each object of a page, in any order.

    spec.num_groups is the number of shares that a rank holds, shards.count. LayoutError if it is
    another, if pages are not contiguous, or if a share's bytes lie in more than MAX_RUNS runs.
    """
    if spec.num_groups != shards.count:
        raise LayoutError(
            f"pool {pool!r}: pages have num_groups={spec.num_groups}, the rank holds "
            f"{shards.count} of {shards.total} shares"
        )
    spec.digest_fields()  # LayoutError unless there is a page object
    axes = {
        "layer": (spec.num_layers, spec.stride_layer),
        "kv": (spec.num_kv, spec.stride_kv),
        "token": (spec.page_size, spec.stride_token),
        "head": (spec.num_heads // spec.num_groups, spec.stride_head),
    }
    axes = {axis: step for axis, step in axes.items() if step[0] > 1}
    outer = {axis: step for axis, step in axes.items() if step[1] >= spec.stride_group}
    inner = {axis: step for axis, step in axes.items() if axis not in outer}
    starts = [
        sum(i * stride for i, (_, stride) in zip(at, outer.values(), strict=True))
        for at in product(*(range(extent) for extent, _ in outer.values()))
    ]
    if len(starts) > MAX_RUNS:
        raise LayoutError(
            f"pool {pool!r}: the heads of one share lie in {len(starts)} runs of a page; put the "
            f"group axis further out, as page_unified has it"
        )
    num_bytes = spec.page_bytes // spec.num_groups // len(starts)
    fields: dict[str, int | str] = {"head_bytes": spec.head_bytes, "num_runs": len(starts)}
    for axis, (extent, stride) in inner.items():
        fields.update({f"num_{axis}": extent, f"stride_{axis}": stride})
    for group, shard in enumerate(shards.names):
        for run, start in enumerate(starts):
            at = start + group * spec.stride_group
            piece = Piece(piece_pool(pool, shard, run), at, num_bytes)
            yield piece, shard, {**fields, "run": run}


def store_by_heads(
    make: Callable[[Mapping[str, StoreNamespace], Mapping[str, int]], PageStore],
    specs: Mapping[str, LayoutSpec],
    shards: HeadShards,
    *,
    model: str,
    revision: str,
    dtype: str,
) -> PieceStore:
    """A store for host pools of these layouts that every tensor-parallel size can read. Of ranks
    that hold the same heads one stores them: of the others a write is True and stores nothing.

        shards = HeadShards.of_rank(1, 2, num_shards=8)
        store_by_heads(partial(SegmentStore, root), {"full": spec}, shards, model="llama", ...)

    make: the inner store, from {pool: namespace} and {pool: bytes of a page}; it is owned here.
    model, revision: of the weights; dtype: of the numbers in the pages.
    """
    namespaces: dict[str, StoreNamespace] = {}
    cuts: dict[str, list[Piece]] = {}
    for pool, spec in specs.items():
        for piece, shard, fields in cut_by_heads(pool, spec, shards):
            cuts.setdefault(pool, []).append(piece)
            namespaces[piece.pool] = StoreNamespace(
                model, revision, dtype, fields, spec.page_size, shard
            )
    sizes = {piece.pool: piece.num_bytes for cut in cuts.values() for piece in cut}
    opened = PieceStore if shards.is_writer else ReplicaStore
    return opened(make(namespaces, sizes), cuts)
