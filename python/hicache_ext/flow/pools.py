"""The pools of one rank, addressed by tier and name, in the order of the tick's lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hicache_ext.copy import Plan, copy_set, make_plan
from hicache_ext.copy_part import CopyPart
from hicache_ext.cuda_copy import Priority
from hicache_ext.errors import CapacityError, LayoutError, TreeError
from hicache_ext.flow.copies import Copies, LayerCopies
from hicache_ext.plan import ascending_side
from hicache_ext.plan_set import MAX_PARTS, PlanSet
from hicache_ext.pool import Access, PagePool, PageState
from hicache_ext.ticket import Ticket, drain
from hicache_ext.tier import Tier
from hicache_ext.tree.pages import HOLE, checked_ids, is_whole
from hicache_ext.tree.results import EvictResult

Pages = Mapping[str, Sequence[int]]


class PoolSet:
    """Device and host pool per component, and the two copy plans between each pair."""

    def __init__(
        self,
        device: Mapping[str, PagePool],
        host: Mapping[str, PagePool],
        page_size: int,
        needs_page_view: bool,
        sidecars: Mapping[str, str] | None = None,
    ) -> None:
        """`sidecars`: pools that have no ids of their own, by name, and whose ids they follow."""
        if list(device) != list(host):
            raise LayoutError(f"device pools {list(device)} and host pools {list(host)} differ")
        self._sidecars = dict(sidecars or {})
        self.names = tuple(name for name in device if name not in self._sidecars)
        self._pools = {Tier.DEVICE: dict(device), Tier.HOST: dict(host)}
        self.withhold: Callable[[str, Sequence[int]], Sequence[int]] = lambda _, ids: ids
        """Of host pages that are given up, by pool, those that may be free at once."""
        self._plans: dict[tuple[str, Tier, int | None], Plan] = {}  # by layer, None: all
        for name in device:
            specs = device[name].spec, host[name].spec
            if any(spec.page_size != page_size for spec in specs):
                raise LayoutError(
                    f"pool {name}: page_size {specs[0].page_size} on device, "
                    f"{specs[1].page_size} on host, {page_size} in the tree"
                )
            for to, src, dst in (
                (Tier.HOST, device[name], host[name]),
                (Tier.DEVICE, host[name], device[name]),
            ):
                side = ascending_side(src.buffer.device)
                self._plans[name, to, None] = make_plan(src.spec, dst.spec, ascending=side)
        self._check_sidecars()
        if needs_page_view:
            self.check_page_view()

    def _check_sidecars(self) -> None:
        for sidecar, name in self._sidecars.items():
            if name not in self.names:
                known = list(self.names)
                raise LayoutError(f"sidecar {sidecar} follows {name}, which is none of {known}")
            for tier, pools in self._pools.items():
                if pools[sidecar].capacity < pools[name].capacity:
                    raise LayoutError(
                        f"sidecar {sidecar} has {pools[sidecar].capacity} pages on {tier.name}, "
                        f"{name} has {pools[name].capacity}"
                    )

    def sidecars_of(self, name: str) -> list[str]:
        """The pools that hold a part of each page of this one, under the same ids."""
        return [sidecar for sidecar, followed in self._sidecars.items() if followed == name]

    def check_page_view(self) -> None:
        """LayoutError unless a store can read and write the pages of every host pool."""
        for name, pool in self._pools[Tier.HOST].items():
            if not pool.spec.is_page_contiguous:
                raise LayoutError(
                    f"host pool {name} has layout {pool.spec.name}; a store needs one whose pages "
                    "are contiguous, such as page_unified"
                )

    def get(self, tier: Tier, name: str) -> PagePool:
        return self._pools[tier][name]

    def sizes(self, tier: Tier) -> list[int]:
        """Pages of each pool."""
        return [self._pools[tier][name].capacity for name in self.names]

    def counts(self, num_pages: Mapping[str, int]) -> tuple[int, ...]:
        """`num_pages` in the order of the pools, 0 where it is silent."""
        return tuple(num_pages.get(name, 0) for name in self.names)

    def num_free(self) -> tuple[int, ...]:
        """Free pages of each device pool, then of each host pool, as the tick has them."""
        tiers = self._pools.values()
        return tuple(pools[name].allocator.num_free for pools in tiers for name in self.names)

    def of_tier(self, tier: Tier, counts: Sequence[int]) -> dict[str, int]:
        """The part of what is counted as in `num_free` that belongs to a tier."""
        begin = list(self._pools).index(tier) * len(self.names)
        return dict(zip(self.names, counts[begin : begin + len(self.names)], strict=True))

    def check_need(self, need: Mapping[str, int]) -> None:
        """CapacityError for an unknown pool, a negative number or a part of a page."""
        for name, num_pages in need.items():
            if name not in self.names or not is_whole(num_pages) or num_pages < 0:
                raise CapacityError(f"pages {dict(need)} of pools {list(self.names)}")

    def reserve(self, tier: Tier, need: Mapping[str, int]) -> dict[str, list[int]] | None:
        """All the pages or none; CapacityError for an unknown pool or a negative number."""
        self.check_need(need)
        held: dict[str, list[int]] = {}
        for name, num_pages in need.items():
            ids = self._pools[tier][name].alloc(num_pages)
            if ids is None:
                self.free(tier, held)
                return None
            held[name] = ids
            self._wait_for_sidecars(tier, name, ids)
        return held

    def _wait_for_sidecars(self, tier: Tier, name: str, ids: Sequence[int]) -> None:
        """alloc() waits for the copies of its own pool; a sidecar's page may be in another one."""
        for sidecar in self.sidecars_of(name):
            self._pools[tier][sidecar].wait_for_copies(ids, Access.WRITE)

    def fits(self, tier: Tier, need: Mapping[str, int]) -> bool:
        """Whether the pools could hold so many pages if they were empty."""
        return all(num <= self._pools[tier][name].capacity for name, num in need.items())

    def shortage(self, tier: Tier, need: Mapping[str, int]) -> dict[str, int]:
        """Pages that each pool lacks; at least one if nothing is lacking but a pool refused."""
        short = {
            name: max(0, num_pages - self._pools[tier][name].allocator.num_free)
            for name, num_pages in need.items()
        }
        if not any(short.values()):
            short = {name: int(num_pages > 0) for name, num_pages in need.items()}
        return short

    def free(self, tier: Tier, pages: Pages) -> None:
        for name, ids in pages.items():
            if tier == Tier.HOST:
                ids = self.withhold(name, ids)
            if ids:
                self._pools[tier][name].free(ids)

    def check_reserved(self, tier: Tier, pages: Pages, or_attached: Pages | None = None) -> None:
        """CapacityError unless each page was handed out and is not yet the tree's.

        Those in `or_attached` may be the tree's: a request names again what it matched.
        """
        for name, ids in pages.items():
            if name not in self.names:
                raise CapacityError(f"pages of {name!r}; there are pools {list(self.names)}")
            allocator = self._pools[tier][name].allocator
            known = set(or_attached.get(name, ())) if or_attached else set()
            given = [page_id for page_id in ids if page_id >= 0]
            if len(set(given)) < len(given):
                twice = sorted({page_id for page_id in given if given.count(page_id) > 1})
                raise CapacityError(f"pool {name}: pages {twice} are named twice")
            for position, page_id in enumerate(ids):
                if page_id >= 0 and page_id not in known:
                    state = allocator.state(page_id)
                    if state != PageState.RESERVED:
                        raise CapacityError(
                            f"pool {name}: page {page_id} at position {position} is {state.name}, "
                            "not a page that alloc handed out"
                        )

    def checked_ids(self, pages: Pages) -> dict[str, list[int]]:
        """Ids or holes of every pool; LayoutError for other pools, TreeError for what is no id."""
        if set(pages) != set(self.names):
            raise LayoutError(f"pages of pools {list(pages)}, expected {list(self.names)}")
        return {n: checked_ids(pages[n], f"pages of {n}", None, lowest=HOLE) for n in self.names}

    def move(self, tier: Tier, pages: Pages, to: PageState) -> None:
        for name, ids in pages.items():
            if ids:
                self._pools[tier][name].move(ids, to)

    def take_back(self, evicted: EvictResult) -> None:
        """Frees what the tree gave up, on both tiers."""
        self.free(Tier.DEVICE, evicted.device)
        self.free(Tier.HOST, evicted.host)

    def settle(self, tier: Tier, given: Pages, released: Pages) -> None:
        """Of the pages given to the tree, those that it released are free and the others its."""
        self.free(tier, released)
        for name, ids in given.items():
            gone = set(released.get(name, ()))
            self._attach(tier, name, [i for i in ids if i not in gone])

    def _attach(self, tier: Tier, name: str, ids: Iterable[int]) -> None:
        """The tree took these; those that it had before stay as they are."""
        allocator = self._pools[tier][name].allocator
        fresh = [i for i in ids if i >= 0 and allocator.state(i) != PageState.ATTACHED]
        if fresh:
            allocator.move(fresh, PageState.ATTACHED)

    def copy(self, to: Tier, sources: Pages, targets: Pages) -> Copies:
        """Starts the copies between the two tiers, of all pools and their sidecars in one launch.

        On a GPU they are enqueued on the caller's current stream, behind the kernels that wrote
        the pages and before those that will read them.
        """
        return Copies(self._start(self._parts(to, sources, targets, None)))

    def copy_layers(self, sources: Pages, targets: Pages) -> LayerCopies:
        """The same to the device, layer by layer, one launch each.

        On a GPU it runs beside the caller's current stream, after what that has by now; kernels
        that read a layer come after wait_layer().
        """
        layers: list[list[Ticket]] = []
        num_layers = max(pool.spec.num_layers for pool in self._pools[Tier.DEVICE].values())
        try:
            for layer in range(num_layers):
                parts = self._parts(Tier.DEVICE, sources, targets, layer)
                layers.append(self._start(parts, Priority.HIGH))
        except BaseException:
            LayerCopies(layers).wait()  # whoever hears of it takes the pages back
            raise
        return LayerCopies(layers)

    def _parts(self, to: Tier, sources: Pages, targets: Pages, layer: int | None) -> list[CopyPart]:
        other = Tier.HOST if to == Tier.DEVICE else Tier.DEVICE
        parts = []
        for followed in self.names:
            if not targets.get(followed):
                continue
            for name in (followed, *self.sidecars_of(followed)):
                src, dst = self._pools[other][name], self._pools[to][name]
                if layer is None or layer < dst.spec.num_layers:
                    ids = list(sources[followed]), list(targets[followed])
                    plan = self._plan(name, to, layer)
                    parts.append(CopyPart(src.buffer, ids[0], dst.buffer, ids[1], plan))
        return parts

    def _plan(self, name: str, to: Tier, layer: int | None) -> Plan:
        plan = self._plans.get((name, to, layer))
        if plan is None:
            whole = self._plans[name, to, None]
            assert layer is not None
            layers = (layer, layer + 1)
            plan = make_plan(whole.src, whole.dst, layers=layers, ascending=whole.ascending)
            self._plans[name, to, layer] = plan
        return plan

    def _start(self, parts: list[CopyPart], priority: Priority | None = None) -> list[Ticket]:
        tickets: list[Ticket] = []
        try:
            for first in range(0, len(parts), MAX_PARTS):
                some = PlanSet(parts[first : first + MAX_PARTS])
                tickets.append(copy_set(some, priority=priority))
        except BaseException:
            drain(tickets)  # as above
            raise
        return tickets

    def check_owned(self, owned_pages: Callable[[Tier, str], list[int]]) -> None:
        """Each page has one owner: those marked attached are exactly those that the tree has."""
        for tier, pools in self._pools.items():
            for name in self.names:
                allocator = pools[name].allocator
                allocator.check_integrity()
                owned = owned_pages(tier, name)
                attached = set(allocator.pages_in(PageState.ATTACHED))
                if attached != set(owned) or len(attached) != len(owned):
                    wrong = sorted(set(owned) - attached)
                    raise TreeError(
                        f"pool {name} on {tier.name}: {len(attached)} pages attached, the tree "
                        f"owns {len(owned)}, of which not attached: {wrong[:8]}"
                    )
