"""Comparing the tree with the plain model, both ways."""


def compare(tree, model):
    """Everything in the model is in the tree, and nothing else is: structure, pages, locks, order
    of use. `tree` is one rank's, in the model's page ids.
    """
    size = tree.page_size * tree.unit.num_bytes
    ends = {}  # by node id: the model's page that the node ends at
    num_pages = 0
    for row in tree.rows():
        if row.parent == row.id:
            page = model.roots[row.namespace]
            assert row.num_hits == page.hits, f"root {row.id}: hits {row.num_hits}, {page.hits}"
        else:
            page = ends[row.parent]
            run = []
            for i in range(0, len(row.key), size):
                assert not run or not page.cut, f"node {row.id} should be cut"
                page = page.children.get(row.key[i : i + size])
                assert page is not None, f"node {row.id}: page {i // size} is not in the model"
                run.append(page)
            assert page.cut, f"node {row.id} should not end here"
            compare_node(row, run, model.kinds)
            num_pages += len(run)
        assert page.node_id in (None, row.id), "a node has another id than before"
        page.node_id = row.id
        ends[row.id] = page
    assert set(model.roots.values()) <= set(ends.values())
    assert num_pages == model.count_pages(), "the model has pages that the tree has not"


def compare_node(row, run, kinds):
    """Page by page: a node stands for its pages, and what it holds lies at its right end."""
    expected = [(page.made, page.hits, page.priority) for page in run]
    found = row.made_at, row.num_hits, row.priority
    assert expected == [found] * len(run), f"node {row.id}: {found}, in the model {expected}"
    for kind, part in zip(kinds, row.parts, strict=True):
        for tier, pages in ((0, part.device), (1, part.host)):
            expected = [page.held[kind][tier] for page in run]
            held = pages or []
            held = [None] * (len(run) - len(held)) + held
            assert held == expected, f"node {row.id} {kind}, tier {tier}: {held}, {expected}"
        expected = [(*page.locks[kind], page.used[kind]) for page in run]
        found = part.device_locks, part.host_locks, part.used_at
        assert expected == [found] * len(run), f"node {row.id} {kind}: {found}, {expected}"
