"""Which prefixes of a span can be restored, from what the pools have. Pure, O(pages x pools)."""

from collections.abc import Mapping, Sequence

from ..errors import StorageError


def restorable_endpoints(
    full: Sequence[bool],
    windows: Mapping[str, tuple[Sequence[bool], int]],
    *,
    has_head: bool,
) -> list[int]:
    """The legal page counts e >= 1, ascending.

    full[i] tells whether page i of the span has its FULL page; windows[name] = (present, w) the
    same for a pool of which only the last w pages before an endpoint are needed. e is legal if
    full[0:e] are all present and, for each window pool, pages max(0, e - w) .. e - 1 are present
    and e >= w or `has_head`: what the window needs before the span is there already, or nothing is
    before it (a whole sequence shorter than the window is its own window). A list that is short,
    or empty, is absent from there on. w = 0 never gates; StorageError on a negative w.
    """
    for name, (_, num_window_pages) in windows.items():
        if num_window_pages < 0:
            raise StorageError(f"pool {name!r}: window of {num_window_pages} pages")
    gates = [(present, w) for present, w in windows.values() if w > 0]
    runs = [0] * len(gates)  # pages of each window pool present without a gap up to here
    endpoints = []
    for page_idx, has_full in enumerate(full):
        if not has_full:
            break
        endpoint = page_idx + 1
        is_legal = True
        for gate_idx, (present, w) in enumerate(gates):
            has_page = page_idx < len(present) and present[page_idx]
            runs[gate_idx] = runs[gate_idx] + 1 if has_page else 0
            needed = min(endpoint, w) if has_head else w
            is_legal = is_legal and runs[gate_idx] >= needed
        if is_legal:
            endpoints.append(endpoint)
    return endpoints
