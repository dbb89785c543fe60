"""Misuse as an op of the tree's fuzz: refused with a typed error, and nothing has changed."""

from tree_ops import op

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier

NEVER = 10**9  # an id that no node gets


def bad_reads(fuzz, tokens, node, dead):
    return [
        lambda tree: tree.lock(dead),
        lambda tree: tree.lock(node, Tier.STORAGE),
        lambda tree: tree.lock(node, Tier.HOST, {"full": 10**6}),
        lambda tree: tree.lock(node, Tier.HOST, {"full": -1}),
        lambda tree: tree.lock(node, Tier.HOST, {"nobody": 0}),
        lambda tree: tree.keys(dead),
        lambda tree: tree.num_tokens(dead),
        lambda tree: tree.path_pages(node, "nobody", Tier.HOST),
        lambda tree: tree.path_pages(node, "full", Tier.HOST, -1),
        lambda tree: tree.match_prefix([*tokens, 1 << 32]),
        lambda tree: tree.match_prefix([*tokens, -1]),
        lambda tree: tree.match_prefix([*tokens, "a"]),
        lambda tree: tree.match_prefix(tokens, "text"),
        lambda tree: tree.match_prefix(b"abc"),
    ]


def bad_inserts(fuzz, tokens, num_pages, namespace, node, dead):
    def insert(pages, *more):
        return lambda tree: tree.insert(tokens, pages, namespace, *more)

    calls = [
        insert({"full": [1] * (num_pages + 1)}),
        lambda tree: tree.tree.insert(tokens, {"full": [0.5] * (num_pages + 1)}),
        insert({"full": [0] * num_pages, "nobody": []}),
        insert({"full": [0] * num_pages}, "high"),
        lambda tree: tree.insert_host(dead, tokens, [0] * num_pages),
        lambda tree: tree.insert_host(node, tokens, [0] * (num_pages + 1)),
        lambda tree: tree.window("full", node, node, []).__enter__(),
        lambda tree: tree.window("nobody", node, node, []),
    ]
    if num_pages:
        calls += [
            insert({"full": [-1] * num_pages}),
            insert({}),
            lambda tree: tree.insert_host(node, tokens, [-1] * num_pages),
        ]
    if num_pages > 1:  # a page twice, below what nobody knows
        unknown = [77] * fuzz.page_size + tokens
        calls.append(lambda tree: tree.insert(unknown, {"full": [NEVER] * (num_pages + 1)}))
    for kind in fuzz.kinds[1:]:
        calls += [
            lambda tree, kind=kind: tree.window(kind, node, dead, [NEVER]).__enter__(),
            lambda tree, kind=kind: tree.window(kind, node, node, [-1]).__enter__(),
            lambda tree, kind=kind: tree.window(kind, node, node, [NEVER, NEVER]).__enter__(),
        ]
    return calls


def bad_moves(fuzz, node, dead):
    calls = [
        lambda tree: tree.unlock(None),
        lambda tree: tree.unlock(NEVER),
        lambda tree: tree.abort_backup(None),
        lambda tree: tree.commit_load_back(None, {}),
        lambda tree: tree.begin_backup(dead),
        lambda tree: tree.begin_load_back(dead),
        lambda tree: tree.evict(Tier.DEVICE, {"full": -1}),
        lambda tree: tree.evict(Tier.STORAGE, {"full": 1}),
        lambda tree: tree.evict(Tier.HOST, {"nobody": 1}),
        lambda tree: tree.clear(Tier.STORAGE),
        lambda tree: tree.coldest(Tier.HOST, "full", -1),
    ]
    if fuzz.copies:
        calls += bad_commits(fuzz, fuzz.copies[0])
    if fuzz.locks:
        receipts = fuzz.locks[0][0]
        calls.append(lambda tree: tree.unlock(other(fuzz, tree, receipts)))
    return calls


def bad_commits(fuzz, copy):
    """A plan of the other kind, of another rank, with a page too few."""
    names = ("commit_load_back", "commit_backup")
    wrong, right = names if copy.is_backup else reversed(names)
    short = {kind: ids[:-1] for kind, ids in copy.ids.items()}
    return [
        lambda tree: getattr(tree, wrong)(own(fuzz, tree, copy.plans), copy.ids),
        lambda tree: getattr(tree, right)(other(fuzz, tree, copy.plans), copy.ids),
        lambda tree: getattr(tree, right)(own(fuzz, tree, copy.plans), short),
        lambda tree: tree.unlock(own(fuzz, tree, copy.plans).receipts[-1]),
    ]


def own(fuzz, tree, items):
    return items[fuzz.ranks.trees.index(tree)]


def other(fuzz, tree, items):
    """The receipt or plan of another rank; None with one rank."""
    return next((item for item in items if item is not own(fuzz, tree, items)), None)


@op(2)
def bad_call(fuzz):
    tokens, keys, namespace = fuzz.prompt()
    end = fuzz.any_end()
    if end is None:
        return
    node, known = end.node_id, {page.node_id for page in fuzz.model.ends()}
    known.update(root.node_id for root in fuzz.model.roots.values())
    dead = fuzz.rng.choice([NEVER, -1, *(i for i in range(max(known)) if i not in known)])
    calls = [
        *bad_reads(fuzz, tokens, node, dead),
        *bad_inserts(fuzz, tokens, len(keys), namespace, node, dead),
        *bad_moves(fuzz, node, dead),
    ]
    owned = fuzz.tree.owned_pages(Tier.DEVICE, "full")
    if owned:  # a prompt that nobody knows, with a page that the tree has
        unknown = [77] * fuzz.page_size
        calls.append(lambda tree: tree.insert(unknown, {"full": owned[:1]}, namespace))
    fuzz.refused(TreeError, fuzz.rng.choice(calls))


@op(0.5)
def call_in_a_window(fuzz):
    """While a window is open, no other call may change the tree."""
    tokens, keys, namespace = fuzz.prompt()
    end = fuzz.any_end()
    if end is None or len(fuzz.kinds) == 1:
        return
    calls = [
        lambda tree: tree.match_prefix(tokens, namespace),
        lambda tree: tree.insert(tokens, {"full": [0] * len(keys)}, namespace),
        lambda tree: tree.lock(end.node_id),
        lambda tree: tree.evict(Tier.HOST, {"full": 1}),
        lambda tree: tree.clear(Tier.DEVICE),
        lambda tree: tree.begin_backup(end.node_id),
    ]
    call = fuzz.rng.choice(calls)

    def within(tree):
        with tree.window(fuzz.kinds[1], end.node_id, None, []):
            call(tree)

    fuzz.refused(TreeError, within)
