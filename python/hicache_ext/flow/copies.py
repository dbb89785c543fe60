"""Copies between the tiers, under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hicache_ext.ticket import Ticket, drain, results


class Copies:
    """Copies under way, one ticket per launch."""

    def __init__(self, tickets: list[Ticket]) -> None:
        self._tickets = tickets

    def done(self) -> bool:
        return all(ticket.query() for ticket in self._tickets)

    def wait(self) -> None:
        """Waits until no copy touches its pages any more, well or not."""
        drain(self._tickets)

    def result(self) -> int:
        """Waits; returns the bytes moved, or raises what went wrong once all have stopped."""
        return results(self._tickets)


class LayerCopies(Copies):
    """Copies that bring layer after layer."""

    def __init__(self, layers: Sequence[list[Ticket]]) -> None:
        """The tickets of each layer."""
        super().__init__([ticket for tickets in layers for ticket in tickets])
        self._layers = tuple(layers)

    def wait_layer(self, layer: int, stream: Any = None) -> None:
        """Blocks until this layer is there; with a stream, lets that stream wait instead.

        Without a stream it raises what went wrong in that layer; with one, result() does.
        """
        for ticket in self._layers[layer]:
            ticket.wait(stream)
            if stream is None:
                ticket.result()
