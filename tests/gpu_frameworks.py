"""Frameworks as far as copies ask them, over memory that is handed to them: for machines on which
they are not installed or find no GPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from array_objects import HandMade, Interface


class TorchTensor:
    """A dense torch.Tensor on a GPU."""

    def __init__(self, address: int, like: np.ndarray, device_idx: int = 0) -> None:
        self.device = SimpleNamespace(type="cuda", index=device_idx)
        self.layout, self.dtype, self.shape = "torch.strided", f"torch.{like.dtype}", like.shape
        self._address, self._like = address, like

    def data_ptr(self) -> int:
        return self._address

    def element_size(self) -> int:
        return self._like.itemsize

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self._like.itemsize for step in self._like.strides)

    def __len__(self) -> int:
        return self.shape[0]


class CupyArray:
    """A cupy.ndarray, and the interface that CuPy makes of it, which names its current stream."""

    def __init__(self, address: int, like: np.ndarray, device_idx: int = 0) -> None:
        self.device, self.data = SimpleNamespace(id=device_idx), SimpleNamespace(ptr=address)
        self.dtype, self.size, self.itemsize = like.dtype, like.size, like.itemsize
        self.shape, self.strides = like.shape, like.strides

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        stream = sys.modules["cupy"].cuda.get_current_stream().ptr
        entries = dict(data=(self.data.ptr, False), shape=self.shape, typestr=self.dtype.str)
        return {**entries, "version": 3, "stream": stream or 1}

    def __len__(self) -> int:
        return self.shape[0]


def install_torch(monkeypatch: pytest.MonkeyPatch, streams: dict[int, int]) -> None:
    """streams: the current one of each device."""

    def current_stream(device_idx: int) -> Any:
        return SimpleNamespace(cuda_stream=streams[device_idx])

    cuda = SimpleNamespace(current_stream=current_stream)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=TorchTensor, cuda=cuda))


def install_cupy(monkeypatch: pytest.MonkeyPatch, streams: dict[int, int]) -> None:
    entered = [0]

    class Device:
        def __init__(self, device_idx: int) -> None:
            self._idx = device_idx

        def __enter__(self) -> None:
            entered.append(self._idx)

        def __exit__(self, *_: object) -> None:
            entered.pop()

    def current_stream() -> Any:
        return SimpleNamespace(ptr=streams[entered[-1]], device_id=entered[-1])

    cuda = SimpleNamespace(Device=Device, get_current_stream=current_stream)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=CupyArray, cuda=cuda))


def interface(address: int, like: np.ndarray, device_idx: int = 0) -> Interface:
    made = Interface(
        "__cuda_array_interface__",
        data=(address, False),
        shape=like.shape,
        typestr=like.dtype.str,
        stream=None,
    )
    made.device = SimpleNamespace(id=device_idx)
    return made


def dlpack(address: int, like: np.ndarray, device_idx: int = 0) -> HandMade:
    code = {"u": 1, "i": 0}[like.dtype.kind]
    dtype = (code, 8 * like.itemsize, 1)
    return HandMade(address, like.shape, device=(2, device_idx), dtype=dtype)
