"""Streams of every kind as raw handles; streams that cannot be meant."""

import types
from typing import Any

import numpy as np
import pytest
from array_objects import on_gpu

from hicache_ext.errors import LayoutError
from hicache_ext.streams import current_stream, producer_stream, stream_handle
from hicache_ext.ticket import Ticket

ADDRESS = 0x7F00_1234_5678


class Protocol:
    """cuda.core and others: a method; a property in early ones."""

    def __init__(self, told: Any, is_property: bool = False) -> None:
        self.__cuda_stream__ = told if is_property else lambda: told


def like_torch(device_index: int | None = 0, **more: Any) -> Any:
    return types.SimpleNamespace(cuda_stream=ADDRESS, device_index=device_index, **more)


def like_cupy(device_id: int = 0) -> Any:
    return types.SimpleNamespace(ptr=ADDRESS, device_id=device_id)


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (0, 0),
        (1, 1),
        (ADDRESS, ADDRESS),
        ((1 << 64) - 1, (1 << 64) - 1),
        (Protocol((0, ADDRESS)), ADDRESS),
        (Protocol((0, ADDRESS), is_property=True), ADDRESS),
        (like_torch(), ADDRESS),
        (like_torch(__cuda_stream__=lambda: (0, 7)), 7),
        (like_cupy(), ADDRESS),
        (like_cupy(device_id=-1), ADDRESS),
    ],
)
def test_handles(stream: Any, handle: int) -> None:
    assert stream_handle(stream) == stream_handle(stream, 0) == handle


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (True, "stream=True is not a CUDA stream"),
        (None, "stream=None is not"),
        ("7", "stream='7' is not"),
        (1.0, r"stream=1\.0 is not"),
        (-1, "-1 is no cudaStream_t"),
        (1 << 64, f"{1 << 64} is no cudaStream_t"),
        (object(), "object"),
        (np.zeros(3), "array"),
        (Protocol((1, ADDRESS)), "version 1, not 0"),
        (Protocol(ADDRESS), "__cuda_stream__"),
        (Protocol((0, 1, 2)), "__cuda_stream__"),
        (Protocol(None), "__cuda_stream__"),
    ],
)
def test_what_is_no_stream_is_named(stream: Any, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        stream_handle(stream)


def test_streams_of_another_device() -> None:
    for stream in (like_torch(1), like_cupy(1)):
        assert stream_handle(stream) == stream_handle(stream, 1) == ADDRESS
        with pytest.raises(LayoutError, match=r"stream=.* is of cuda:1, the copy is on cuda:0"):
            stream_handle(stream, 0)


def test_a_ticket_takes_every_kind_of_stream() -> None:
    waits: list[int] = []
    running = types.SimpleNamespace(
        query=lambda: True, wait=lambda: None, wait_on_stream=waits.append
    )
    ticket = Ticket(0, (), running)
    for stream in (7, like_torch(), like_cupy(), Protocol((0, 5))):
        ticket.wait(stream)
    assert waits == [7, ADDRESS, ADDRESS, 5]
    with pytest.raises(LayoutError, match="stream='x'"):
        ticket.wait("x")


def test_the_stream_of_a_producer() -> None:
    assert producer_stream(on_gpu(4096, (3,))) is None
    assert producer_stream(on_gpu(4096, (3,), stream=None)) is None
    assert producer_stream(np.zeros(3)) is None
    for stream, handle in ((1, 0), (2, 2), (ADDRESS, ADDRESS)):
        array = on_gpu(4096, (3,), stream=stream)
        assert producer_stream(array) == current_stream(array, 0) == handle
    for wrong in (0, -1, "2", True, 1.5):
        with pytest.raises(LayoutError, match=f"stream={wrong!r} is no stream; 1 is the legacy"):
            producer_stream(on_gpu(4096, (3,), stream=wrong))
    assert current_stream(on_gpu(4096, (3,)), 0) == 0
