"""Comparing the tree with the plain model, both ways."""

import pytest


def compare(tree, model):
    """Everything in the model is in the tree, and nothing else is: structure, pages, locks, order
    of use.
    """
    state = tree._state
    size = state.page_bytes
    num_pages = 0
    assert set(state.roots) == set(model.roots)
    assert state.clock == model.clock
    for namespace, root in state.roots.items():
        todo = [(root, model.roots[namespace])]
        while todo:
            node, page = todo.pop()
            if page.node_id is None:
                page.node_id = node.id
            assert page.node_id == node.id, "a node has another id than before"
            for child in node.children.values():
                inner = page
                for i in range(child.num_pages):
                    assert inner is page or not inner.cut, f"node {child.id} should be cut"
                    inner = inner.children.get(child.key[i * size : (i + 1) * size])
                    assert inner is not None, f"node {child.id}: page {i} is not in the model"
                    compare_page(tree, child, i, inner, model.kinds)
                assert inner.cut, f"node {child.id} should not end here"
                num_pages += child.num_pages
                todo.append((child, inner))
    assert num_pages == len(model.pages()), "the model has pages that the tree has not"


def compare_page(tree, node, i, page, kinds):
    assert (node.made_at, node.num_hits, node.priority) == (page.made, page.hits, page.priority)
    for component, kind, part in zip(tree.components, kinds, node.parts, strict=True):
        rows = [value and component.spread(value, node.num_pages) for value in part.pages]
        held = [None if row is None or row[i] < 0 else row[i] for row in rows]
        where = f"node {node.id} page {i} {kind}"
        assert held == page.held[kind], f"{where}: tree {held}, model {page.held[kind]}"
        assert part.locks == page.locks[kind], f"{where}: {part.locks}, {page.locks[kind]}"
        assert part.used_at == page.used[kind], f"{where}: {part.used_at}, {page.used[kind]}"


def expect_unchanged(fuzz, error, call):
    digest, shown = fuzz.tree.digest, fuzz.tree.show()
    with pytest.raises(error):
        call()
    assert fuzz.tree.digest == digest and fuzz.tree.show() == shown
