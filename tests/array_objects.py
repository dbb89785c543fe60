"""Objects that speak one protocol and nothing else, and DLPack capsules made by hand."""

from __future__ import annotations

import ctypes
from typing import Any


class Interface:
    """An object with one of the array interfaces, a dict of whatever the test says."""

    def __init__(self, protocol: str, keep: object = None, **entries: Any) -> None:
        self.keep = keep
        setattr(self, protocol, {"version": 3, **entries})


def on_gpu(address: int, shape: tuple[int, ...], typestr: str = "|u1", **more: Any) -> Interface:
    """An array of a GPU, at an address that nobody may touch."""
    entries = {"data": (address, False), "shape": shape, "typestr": typestr, **more}
    return Interface("__cuda_array_interface__", **entries)


class OnlyDlpack:
    """Hides all of an array but its DLPack methods; `calls` are the arguments that it got."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.calls: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> object:
        self.calls.append(options)
        return self._array.__dlpack__(**options)


class OldDlpack(OnlyDlpack):
    """A producer from before DLPack 1: it knows no argument but the stream."""

    def __dlpack__(self, stream: Any = None) -> object:
        self.calls.append({"stream": stream})
        return self._array.__dlpack__()


# --- capsules ------------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class HandMade:
    """A DLPack producer whose every field the test sets; `num_deleted`: calls of the deleter."""

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        *,
        device: tuple[int, int] = (2, 0),
        dtype: tuple[int, int, int] = (1, 8, 1),
        strides: tuple[int, ...] | None = None,
        byte_offset: int = 0,
        version: tuple[int, int] | None = (1, 0),
        is_read_only: bool = False,
    ) -> None:
        extents = (ctypes.c_int64 * len(shape))(*shape)
        steps = None if strides is None else (ctypes.c_int64 * len(shape))(*strides)
        code, bits, lanes = dtype
        tensor = _Tensor(
            address, *device, len(shape), code, bits, lanes, extents, steps, byte_offset
        )
        self.num_deleted = 0
        self.streams: list[Any] = []
        self._keep = extents, steps
        self._device = device
        self._name = b"dltensor" if version is None else b"dltensor_versioned"
        deleter = _Deleter(self._delete)
        if version is None:
            self._managed: Any = _Managed(tensor, None, deleter)
        else:
            self._managed = _ManagedVersioned(*version, None, deleter, int(is_read_only), tensor)

    def _delete(self, managed: int) -> None:
        assert managed == ctypes.addressof(self._managed)
        self.num_deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> object:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._managed), self._name, None)
