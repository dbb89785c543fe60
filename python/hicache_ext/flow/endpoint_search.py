"""One rank's part in the search for the largest endpoint that all ranks have.

Each rank first proposes its largest. If those differ, the ranks look at the endpoints from the
smallest proposal down, as many in a tick as it has lanes for.
"""

from __future__ import annotations

from bisect import bisect_right


class EndpointSearch:
    """`endpoints` ascending; `proposal` is the largest of this rank that may still be common."""

    def __init__(self, endpoints: list[int]) -> None:
        self._endpoints = endpoints
        self.proposal = max(endpoints, default=0)
        self._upper = 0

    def look_below(self, upper: int) -> None:
        """No endpoint above `upper` is common to all."""
        self._upper = upper

    def flags(self, num_lanes: int) -> bytes:
        """The lanes stand for the endpoints `upper`, `upper` - 1, ...; proposes the next lower."""
        low = self._upper - num_lanes
        begin, end = bisect_right(self._endpoints, low), bisect_right(self._endpoints, self._upper)
        flags = bytearray(num_lanes)
        for endpoint in self._endpoints[begin:end]:
            flags[self._upper - endpoint] = 1
        self.proposal = self._endpoints[begin - 1] if begin else 0
        return bytes(flags)

    def endpoint(self, lane: int) -> int:
        return self._upper - lane
