"""Ranks without a cache: a log, the lanes of one tick, and what they find out when these differ."""

import re
from pathlib import Path

from waiting import LONG_S

from hicache_ext.agreement import SlotState, TickHeader, TickSchema, pack, unpack
from hicache_ext.agreement.postmortem import Exchange, explain
from hicache_ext.agreement.schema import LaneError
from hicache_ext.oplog import OpKind, OpLog

PUT, TAKE = OpKind("put {} pages"), OpKind("take {} pages")
STATE = SlotState(7, 1, True, 5, (0,), (5,))
SCHEMA = TickSchema(["full"], num_slots=3, num_endpoint_lanes=1)
A, B, C = (PUT, 1), (PUT, 2), (TAKE, 1)


class Peer:
    """A rank that has logged `ops` and says `lanes` in a tick."""

    def __init__(self, group, lanes, ops=(), schema=SCHEMA, depth=0):
        self.group, self.lanes, self.schema, self.depth = group, lanes, schema, depth
        self.log = OpLog()
        for op in ops:
            self.log.add(*op)

    def tick(self, deadline_s=LONG_S):
        """The text of the error in which a tick ends."""
        self.group.issue(self.lanes)
        for _ in range(self.depth):
            self.group.issue(self.lanes)
        try:
            unpack(self.schema, self.group.result(deadline_s), 3, self.lanes)
        except LaneError as error:
            self.exchange = Exchange(self.group, self.lanes.size, self.depth, deadline_s)
            return str(explain(error, self.lanes, self.exchange, self.log))
        raise AssertionError("the ranks agree")


def lanes_of(schema=SCHEMA, epoch=3, digest=11, slots=None):
    return pack(schema, TickHeader(epoch, digest), slots or {})


def dump_of(text):
    return Path(re.search(r"are in (\S+)$", text).group(1))
