"""Comparing the tree with the plain model: all that is in one is in the other."""

FACTS = ("depth", "key", "node id", "made", "hits", "priority")
FACTS_OF_KIND = ("device locks", "host locks", "used")


def page_rows(pages, kinds):
    """RadixTree.page_rows() as the model says it must be."""
    facts, ids = [], []
    for page in pages:
        end = page.node_id if page.cut else None
        row = [page.depth, page.key, end, page.made, page.hits, page.priority]
        held, locks, used = page.held, page.locks, page.used
        for kind in kinds:
            row += locks[kind]
            row.append(used[kind])
            ids += held[kind]
        facts.append(tuple(row))
    return facts, ids


def compare(rows, model):
    """`rows` are one rank's page_rows(), in the model's page ids. Structure, tokens, pages, locks,
    hits and order of use: page by page, since the model has no nodes.
    """
    pages = model.in_order()
    learn_ids(rows, pages)
    expected = page_rows(pages, model.kinds)
    if expected != rows:
        raise AssertionError(first_difference(rows, *expected, model.kinds))


def first_difference(rows, expected, ids, kinds):
    """In words."""
    names = [*FACTS, *(f"{kind} {fact}" for kind in kinds for fact in FACTS_OF_KIND)]
    for row, wanted in zip(rows.facts, expected, strict=False):
        for name, found, value in zip(names, row, wanted, strict=True):
            if found != value:
                return f"page {wanted[:3]}: {name} is {found!r}, in the model {value!r}"
    if len(rows.facts) != len(expected):
        return f"{len(rows.facts)} pages, in the model {len(expected)}"
    places = [f"{kind} {tier}" for kind in kinds for tier in ("device", "host")]
    for i, (found, page) in enumerate(zip(rows.ids, ids, strict=True)):
        if found != page:
            where = f"page {expected[i // len(places)][:3]}: {places[i % len(places)]}"
            return f"{where} is {found}, in the model {page}"
    return "rows differ"


def learn_ids(rows, pages):
    """The model cannot know the ids of new nodes."""
    for row, page in zip(rows.facts, pages, strict=False):
        if page.cut and page.node_id is None:
            page.node_id = row[2]
