"""A reader of GGUF model files: metadata and tensor places, straight from a buffer.

The gguf library's own reader builds a numpy view per array element, which takes 13 s for the
262 144 strings of Gemma's vocabulary; one pass with struct takes a second. Its dequantising
functions are good and are what we use (`GgufTensor.to_float32`).
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hicache_ext.errors import ModelError

_MAGIC = b"GGUF"
_VERSION = 3
_DEFAULT_ALIGNMENT = 32
_TYPE_STRING, _TYPE_ARRAY = 8, 9
# value type -> struct code
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


@dataclass(frozen=True)
class GgufTensor:
    """One stored tensor: shape outermost axis first, quantised bytes as a view of the file."""

    name: str
    shape: tuple[int, ...]
    quant_type: int
    data: memoryview

    def to_float32(self) -> NDArray[np.float32]:
        """Dequantise; a new array of `shape` (F32 tensors come back as a view of the file)."""
        from gguf import GGMLQuantizationType, quants

        raw = np.frombuffer(self.data, dtype=np.uint8).reshape(*self.shape[:-1], -1)
        values = quants.dequantize(raw, GGMLQuantizationType(self.quant_type))
        return np.asarray(values, dtype=np.float32).reshape(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """metadata: key -> int, float, bool, str or list of them; tensors in file order."""

    metadata: dict[str, Any]
    tensors: list[GgufTensor]


class _Cursor:
    """Reads little-endian values from `buffer`; runs past the end as a ModelError."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.offset = 0

    def scalar(self, code: str) -> Any:
        return self.scalars(code, 1)[0]

    def scalars(self, code: str, count: int) -> tuple[Any, ...]:
        layout = f"<{count}{code}"
        try:
            values = struct.unpack_from(layout, self.buffer, self.offset)
        except struct.error as exc:
            raise ModelError(f"GGUF file is truncated at offset={self.offset}: {exc}") from None
        self.offset += struct.calcsize(layout)
        return values

    def string(self) -> str:
        size = self.scalar("Q")
        start, self.offset = self.offset, self.offset + size
        if self.offset > len(self.buffer):
            raise ModelError(f"GGUF file is truncated: string of {size} bytes at offset={start}")
        return str(self.buffer[start : self.offset], "utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _TYPE_STRING:
            return self.string()
        if kind == _TYPE_ARRAY:
            item_kind, count = self.scalar("I"), self.scalar("Q")
            if item_kind in _SCALARS:
                return list(self.scalars(_SCALARS[item_kind], count))
            return [self.value(item_kind) for _ in range(count)]
        if kind not in _SCALARS:
            raise ModelError(f"GGUF value type {kind} at offset={self.offset} is unknown")
        return self.scalar(_SCALARS[kind])


def read_gguf(buffer: bytes | bytearray | memoryview) -> GgufFile:
    """Parse a GGUF version 3 file held in `buffer`; tensors stay views of it.

    Raises ModelError for another magic or version, an unknown type or a truncated file.
    """
    view = memoryview(buffer)
    cursor = _Cursor(view)
    magic = bytes(view[:4])
    cursor.offset = 4
    if magic != _MAGIC or (version := cursor.scalar("I")) != _VERSION:
        raise ModelError(f"not a GGUF version {_VERSION} file: magic={magic!r} size={len(view)}")
    num_tensors, num_keys = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {"GGUF.version": version}
    for _ in range(num_keys):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("I"))
    infos = [_tensor_info(cursor) for _ in range(num_tensors)]
    alignment = int(metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
    start = -(-cursor.offset // alignment) * alignment
    return GgufFile(metadata, [_tensor(view, start, *info) for info in infos])


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    # GGUF lists the fastest axis first.
    shape = tuple(reversed(cursor.scalars("Q", cursor.scalar("I"))))
    return name, shape, cursor.scalar("I"), cursor.scalar("Q")


def _tensor(
    view: memoryview, start: int, name: str, shape: tuple[int, ...], quant_type: int, offset: int
) -> GgufTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block_elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(quant_type)]
    num_bytes = int(np.prod(shape, dtype=np.int64)) // block_elements * block_bytes
    begin = start + offset
    if begin + num_bytes > len(view):
        raise ModelError(
            f"GGUF tensor {name} ends at {begin + num_bytes}, the file has {len(view)} bytes"
        )
    return GgufTensor(name, shape, quant_type, view[begin : begin + num_bytes])
