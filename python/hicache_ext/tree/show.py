"""A picture of the tree for people."""

from __future__ import annotations

from hicache_ext.tree.node import Node
from hicache_ext.tree.state import TreeState

_NUM_SHOWN_TOKENS = 4


def show(state: TreeState) -> str:
    """One line per node: tokens, then per component where its pages are and its locks.

    D device, H host, B both, - neither; `*n` device locks, `^n` host locks.
    """
    lines = []
    for namespace, root in state.roots.items():
        title = f"namespace {namespace!r}" if namespace else "root"
        lines.append(f"{title} (node {root.id}), page {state.page_size}")
        stack = [(child, "", i == 0) for i, child in enumerate(reversed(root.children.values()))]
        while stack:
            node, indent, is_last = stack.pop()
            lines.append(f"{indent}{'└── ' if is_last else '├── '}{_line(state, node)}")
            below = indent + ("    " if is_last else "│   ")
            children = reversed(node.children.values())
            stack.extend((child, below, i == 0) for i, child in enumerate(children))
    return "\n".join(lines)


def _line(state: TreeState, node: Node) -> str:
    unit = state.unit
    shown = memoryview(node.key[: _NUM_SHOWN_TOKENS * unit.num_bytes]).cast("I")
    words = shown.tolist()[:: unit.num_words]
    tokens = " ".join(map(str, words))
    more = " .." if len(node.key) > shown.nbytes else ""
    first, end = node.start * state.page_size, node.end * state.page_size
    text = f"#{node.id} tokens {first}..{end} [{tokens}{more}]"
    for component in state.components:
        part = node.parts[component.idx]
        device, host = (pages is not None for pages in part.pages)
        where = "B" if device and host else "D" if device else "H" if host else "-"
        locks = "".join(f"{mark}{n}" for mark, n in zip("*^", part.locks, strict=True) if n)
        text += f" {component.name}:{where}{locks}"
    return text
