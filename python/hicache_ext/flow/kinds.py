"""What is logged above the tree. Counts of pages are one per pool."""

from hicache_ext.oplog import OpKind

OP = OpKind("op {} is made, phase {.name}")
TICK = OpKind("tick {}")
ALLOC = OpKind("alloc pages={} -> granted {}")
PARK = OpKind("park op {}, {} tokens, pages={}")
DISCARD = OpKind("discard the request of park op {}")
FREE = OpKind("free pages={}")
POLL = OpKind("poll op {} -> go on {}")
REFUSED = OpKind("prefetch refused: {.name}")
