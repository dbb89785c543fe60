"""The ops of the tree's fuzz: each draws its arguments, calls all ranks and the model, and compares
results.
"""

from tree_model import DEVICE, HOST

from hicache_ext.errors import TreeError
from hicache_ext.keys import namespace_seed
from hicache_ext.tier import Tier

OPS = []


def op(weight):
    def register(function):
        function.weight = weight
        OPS.append(function)
        return function

    return register


@op(8)
def match(fuzz):
    tokens, keys, namespace = fuzz.prompt()
    result = fuzz.each("match_prefix", tokens, namespace)
    ends = fuzz.model.match(keys, namespace)
    ids = (result.node, result.device_node, result.host_node, result.full_node)
    lengths = (
        *(result.num_tokens, result.num_device_tokens),
        *(result.num_host_tokens, result.num_full_tokens),
    )
    assert lengths == tuple(end.depth * fuzz.page_size for end in ends)
    for end, node_id in zip(ends, ids, strict=True):
        assert end.node_id in (None, node_id)
    for end, node_id in {*zip(ends, ids, strict=True)}:
        chain = fuzz.model.chain(end)
        for kind in fuzz.kinds:
            for tier in (Tier.DEVICE, Tier.HOST):
                held = [page.held[kind][tier] for page in chain]
                expected = [-1 if page is None else page for page in held]
                assert fuzz.tree.path_pages(node_id, kind, tier) == expected
                assert fuzz.tree.path_pages(node_id, kind, tier, 2) == expected[-2:]
    chain = fuzz.chain_keys(keys[: ends[3].depth], namespace_seed(namespace))
    assert fuzz.each("keys", ids[3]) == chain
    for name, expected in (("num_tokens", lengths[3]), ("namespace", namespace)):
        assert fuzz.each(name, ids[3]) == expected


def holes(fuzz, num_pages):
    """Which pages of a request still have SWA pages: all, the last few, or any."""
    style = fuzz.rng.random()
    if style < 0.2:
        return [True] * num_pages
    if style < 0.8:
        first = num_pages - fuzz.rng.randint(0, 2 * fuzz.model.window_pages)
        return [i >= first for i in range(num_pages)]
    return [fuzz.rng.random() < 0.6 for _ in range(num_pages)]


@op(8)
def insert(fuzz):
    tokens, keys, namespace = fuzz.prompt()
    fresh = {}
    for kind in fuzz.kinds:  # as many as could be needed; what is not used goes back at once
        fresh[kind] = fuzz.alloc(kind, DEVICE, len(keys))
        if fresh[kind] is None:
            for other, ids in fresh.items():
                fuzz.pools[other, DEVICE].give_back(ids or [], fuzz.pools[other, DEVICE].reserved)
            return
    again = (
        fuzz.rng.random() < 0.7
    )  # the ids of known pages are handed in again, or it computed its own
    known = fuzz.model.walk(fuzz.model.root(namespace), keys)
    wanted = {"full": [True] * len(keys)}
    if "swa" in fuzz.kinds:
        wanted["swa"] = holes(fuzz, len(keys))
    if "mamba" in fuzz.kinds:
        wanted["mamba"] = [fuzz.rng.random() < (0.8 if key is keys[-1] else 0.3) for key in keys]
    ids = {}
    for kind in fuzz.kinds:
        held = [page.held[kind][DEVICE] for page in known] + [None] * (len(keys) - len(known))
        ids[kind] = [
            (own if own is not None and again else new) if want else -1
            for own, new, want in zip(held, fresh[kind], wanted[kind], strict=True)
        ]
        unused = [page for page in fresh[kind] if page not in ids[kind]]
        fuzz.pools[kind, DEVICE].give_back(unused, fuzz.pools[kind, DEVICE].reserved)
    priority = fuzz.rng.choice((0, 0, 1, -3))
    result = fuzz.each("insert", tokens, ids, namespace, priority)
    end, present, released = fuzz.model.insert(keys, ids, namespace, priority)
    assert result.released == released
    assert result.num_tokens == len(keys) * fuzz.page_size == end.depth * fuzz.page_size
    assert result.num_present_tokens == present * fuzz.page_size
    assert end.node_id in (None, result.node)
    for kind in fuzz.kinds:
        new = [page for page in fresh[kind] if page in ids[kind]]
        fuzz.settle(kind, DEVICE, new, released[kind])


@op(4)
def lock(fuzz):
    end, tier = fuzz.any_end(), fuzz.rng.choice((DEVICE, DEVICE, HOST))
    if end is None or len(fuzz.locks) > 4:
        return
    reach = {kind: fuzz.model.reach(kind, end) for kind in fuzz.kinds}
    wanted = None
    if fuzz.rng.random() < 0.3:
        wanted = {kind: fuzz.rng.randint(0, end.depth) for kind in fuzz.kinds}
        reach = {kind: fuzz.model.whole_nodes(end, count) for kind, count in wanted.items()}
        reach["full"] = fuzz.model.chain(end)
    receipts = fuzz.each("lock", end.node_id, Tier(tier), wanted)
    fuzz.locks.append((receipts, fuzz.model.lock(end, tier, reach)))


@op(4)
def unlock(fuzz):
    if not fuzz.locks:
        return
    receipts, counted = fuzz.locks.pop(fuzz.rng.randrange(len(fuzz.locks)))
    fuzz.each("unlock", receipts)
    fuzz.model.unlock(counted)
    fuzz.refused(TreeError, lambda tree: tree.unlock(receipts[0]))


@op(1)
def release_window(fuzz):
    """Early release of one component's part of a lock."""
    kinds = fuzz.kinds[1:]
    if not fuzz.locks or not kinds:
        return
    kind, at = fuzz.rng.choice(kinds), fuzz.rng.randrange(len(fuzz.locks))
    receipts, counted = fuzz.locks[at]
    left = fuzz.each("release_window", receipts, kind)
    fuzz.locks[at] = left, fuzz.model.release_window(counted, kind)
    fuzz.refused(TreeError, lambda tree: tree.release_window(receipts[0], kind))


@op(4)
def evict(fuzz):
    kinds = [kind for kind in fuzz.kinds if fuzz.rng.random() < 0.7]
    fuzz.evict(fuzz.rng.choice((DEVICE, HOST)), {kind: fuzz.rng.randint(0, 9) for kind in kinds})


@op(1)
def drop_duplicates(fuzz):
    wanted = {kind: fuzz.rng.randint(0, 5) for kind in fuzz.kinds if fuzz.rng.random() < 0.7}
    result = fuzz.each("drop_duplicates", wanted)
    freed = fuzz.model.drop_duplicates(wanted)
    assert result.host == freed and not any(result.device.values())
    for kind in fuzz.kinds:
        pool = fuzz.pools[kind, HOST]
        pool.give_back(freed[kind], pool.attached)


@op(1)
def coldest(fuzz):
    kind, tier = fuzz.rng.choice(fuzz.kinds), fuzz.rng.choice((DEVICE, HOST))
    count = fuzz.rng.randint(0, 9)
    nodes = fuzz.each("coldest", Tier(tier), kind, count)
    assert nodes == [end.node_id for end in fuzz.model.coldest(kind, tier, count)]
    counts = fuzz.each("page_counts", Tier(tier), kind)
    assert (counts.num_evictable, counts.num_protected) == fuzz.model.page_counts(kind, tier)


@op(0.2)
def clear(fuzz):
    fuzz.clear(fuzz.rng.choice((DEVICE, HOST)))


@op(4)
def prefetch(fuzz):
    """insert_host below an anchor, then mostly a window, as the flow of a prefetch does it."""
    tokens, keys, namespace = fuzz.prompt()
    fuzz.each("match_prefix", tokens, namespace)
    anchor = fuzz.model.match(keys, namespace)[fuzz.rng.choice((0, 2, 2, 3))]
    if anchor.node_id is None:
        fuzz.verify()  # shows the model the id of a node that was just split off
    span = keys[anchor.depth :]
    span = span[: fuzz.rng.randint(0, len(span))]
    hold = fuzz.each("lock", anchor.node_id, Tier.HOST)
    counted = fuzz.model.lock(anchor, HOST)
    ids = fuzz.alloc("full", HOST, len(span))
    end = anchor
    if ids is not None:
        result = fuzz.each("insert_host", anchor.node_id, b"".join(span), ids)
        end, present, released = fuzz.model.insert_host(anchor, span, ids)
        assert (result.node is None) == (end is None)
        assert (result.num_present_tokens, result.released) == (present * fuzz.page_size, released)
        assert result.total_tokens == len(span) * fuzz.page_size
        fuzz.settle("full", HOST, ids, released)
        fuzz.verify()
    if end is not None and fuzz.rng.random() < 0.8:
        window_at(fuzz, anchor, end)
    fuzz.each("unlock", hold)
    fuzz.model.unlock(counted)


@op(2)
def window(fuzz):
    """A window anywhere."""
    end = fuzz.any_end()
    if end is None:
        return
    above = [page for page in fuzz.model.chain(end) if page.cut]
    root = above[0] if above else end
    while root.parent:
        root = root.parent
    window_at(fuzz, fuzz.rng.choice([root, *above]), end)


def window_at(fuzz, anchor, end):
    kinds = [kind for kind in fuzz.kinds if kind != "full"]
    if not kinds:
        return
    kind = fuzz.rng.choice(kinds)
    # The flow holds its nodes while it takes memory for the window.
    hold = fuzz.each("lock", end.node_id, Tier.HOST)
    counted = fuzz.model.lock(end, HOST)
    most = 1 if kind == "mamba" else fuzz.model.window_pages + 2
    ids = fuzz.alloc(kind, HOST, fuzz.rng.randint(0, most))
    if ids is not None:
        run_window(fuzz, kind, anchor, end, ids)
    fuzz.each("unlock", hold)
    fuzz.model.unlock(counted)


def run_window(fuzz, kind, anchor, end, ids):
    """All ranks commit, or none: then it does not matter which rank got how far."""
    args = (kind, anchor.node_id, end.node_id, ids)
    if fuzz.rng.random() < 0.5:
        for tree in fuzz.ranks.trees:
            roll_back(tree, args, fuzz.rng.choice(("never opened", "opened", "staged", "raises")))
        fuzz.pools[kind, HOST].give_back(ids, fuzz.pools[kind, HOST].reserved)
        return
    results = []
    for tree in fuzz.ranks.trees:
        with tree.window(*args) as txn:
            if fuzz.rng.random() < 0.5:
                txn.stage()
            txn.commit()
        tree.check_integrity()  # before the nodes are unlocked, and queued for that
        results.append(tree.result_of(txn))
    attached, released = fuzz.model.window(anchor, end, ids, kind)
    assert all((r.attached, r.released) == (attached, released) for r in results), results
    assert sorted(attached + released) == sorted(ids)
    fuzz.settle(kind, HOST, ids, released)


def roll_back(tree, args, how_far):
    if how_far == "never opened":
        return
    try:
        with tree.window(*args) as txn:
            if how_far != "opened":
                txn.stage()
                tree.check_integrity()
            if how_far == "raises":
                raise KeyError
    except KeyError:
        pass
    result = tree.result_of(txn)
    assert (result.attached, result.released) == ([], args[-1])
