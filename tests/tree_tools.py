"""What the tree's unit tests share. Page 4, window 10 tokens: 3 pages."""

from hicache_ext.tier import Tier
from hicache_ext.tree import Full, RadixTree, Swa

PAGE, WINDOW = 4, 10
DEVICE, HOST = Tier.DEVICE, Tier.HOST


def make_tree(*, window=WINDOW, page_size=PAGE, **options):
    return RadixTree(page_size, (Full(), Swa(window)) if window else (Full(),), **options)


def tokens(*pages):
    """One page of distinct tokens per number."""
    return [100 * page + i for page in pages for i in range(PAGE)]


def insert(tree, pages, full, swa=None):
    """Insert prompt `pages`; SWA everywhere by default, with the ids of FULL plus 100."""
    full = list(full)
    swa = [page + 100 for page in full] if swa is None else list(swa)
    return tree.insert(tokens(*pages), {"full": full, "swa": swa})


def insert_host(tree, pages, full, anchor=None):
    if anchor is None:
        anchor = tree.match_prefix([]).node
    return tree.insert_host(anchor, tokens(*pages), list(full))


def back_up(tree, node, first_page):
    """Give what `node`'s path lacks on the host pages from `first_page` on; the plan."""
    plan = tree.begin_backup(node)
    ids, page = {}, first_page
    for name, count in plan.num_pages.items():
        ids[name] = list(range(page, page + count))
        page += count
    assert not any(tree.commit_backup(plan, ids).values())
    return plan


def residency(tree, *pages):
    """Per component one letter per page of the path: D device, H host, B both, - none, from the
    root on.
    """
    node = tree.match_prefix(tokens(*pages)).full_node
    letters = {}
    for component in tree.components:
        device = tree.path_pages(node, component.name, DEVICE)
        host = tree.path_pages(node, component.name, HOST)
        pairs = zip(device, host, strict=True)
        letters[component.name] = "".join(
            "-DHB"[(on_device >= 0) + 2 * (on_host >= 0)] for on_device, on_host in pairs
        )
    return letters
