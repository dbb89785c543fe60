"""How calls that change the tree read in the log. Counts of pages are one per component."""

from hicache_ext.oplog import OpKind

ROOT = OpKind("first use of a namespace (hash {:x}): node {}")
MATCH = OpKind(
    "match tokens={} (hash {:x}) below {} -> node {}, on the device {}, host {}, full {}"
)
LOCK = OpKind("lock node {} on {.name}, pages back {} -> receipt {}")
UNLOCK = OpKind("unlock receipt {}")
RELEASE_WINDOW = OpKind("release of receipt {}: component {}, {} pages")
INSERT = OpKind(
    "insert tokens={} (hash {:x}) pages={} priority={} -> node {}, {} pages were present, "
    "{} come back"
)
INSERT_HOST = OpKind(
    "insert_host below {} tokens={} (hash {:x}) -> node {}, {} pages were present, {} come back"
)
DROPPED = OpKind("insert_host below {} tokens={} (hash {:x}) -> dropped: no host pages above")
WINDOW = OpKind("window of {} pages, component {}, anchor {}, at node {} -> {} attached")
BEGIN = OpKind("begin a copy to {.name} for node {}, pages={} -> plan {}")
NOTHING = OpKind("begin a copy to {.name} for node {} -> nothing to copy")
COMMIT = OpKind("commit plan {}, pages that come back {}")
ABORT = OpKind("abort plan {}")
EVICT = OpKind("evict pages={} on {.name} -> device {}, host {}, {} nodes left")
CLEAR = OpKind("clear {.name} -> device {}, host {}, {} nodes left")
DUPLICATES = OpKind("drop host duplicates, pages={} -> {}")
