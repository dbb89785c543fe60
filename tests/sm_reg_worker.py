"""Copies through executor="sm_reg" from Python, on a GPU or in the simulator. Usage: MODULE SEED.

MODULE is a build of hicache_ext._C with cudart shared. The arrays are foreign on purpose: nothing
but __cuda_array_interface__ and the CUDA runtime, as CuPy would hand them over.
"""

from __future__ import annotations

import ctypes
import importlib.util
import random
import sys
from functools import partial
from typing import Any

import numpy as np

CUDART = ctypes.CDLL("libcudart.so.13")
ANY_DIRECTION = 4  # cudaMemcpyDefault


def call(name: str, *args: Any) -> None:
    code = getattr(CUDART, name)(*args)
    assert code == 0, f"{name}: {code}"


class GpuArray:
    """A flat array in GPU memory that only the interface describes."""

    def __init__(self, content: np.ndarray) -> None:
        self.shape, self.dtype, self.nbytes = content.shape, content.dtype, content.nbytes
        pointer = ctypes.c_void_p()
        call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(1, self.nbytes)))
        self.address = pointer.value
        self._copy(self.address, content.ctypes.data)

    def __len__(self) -> int:
        return self.shape[0]

    def _copy(self, to: int, source: int) -> None:
        size = ctypes.c_size_t(self.nbytes)
        call("cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), size, ANY_DIRECTION)

    def read(self) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        self._copy(out.ctypes.data, self.address)
        return out

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "stream": None,
        }


def register(array: np.ndarray) -> np.ndarray:
    address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
    call("cudaHostRegister", address, size, 0)
    return array


def load_module(path: str) -> None:
    import hicache_ext

    spec = importlib.util.spec_from_file_location("hicache_ext._C", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hicache_ext._C"] = hicache_ext._C = module
    spec.loader.exec_module(module)


def expect_raise(error: type[Exception], text: str, action: Any) -> None:
    try:
        action()
    except error as raised:
        assert text in str(raised), f"wanted {text!r} in {raised}"
    else:
        raise AssertionError(f"no {error.__name__} with {text!r}")


def main(module: str, seed: int) -> None:
    load_module(module)
    from pages import POISON, guarded, oracle, random_bytes, random_ids, random_pair, random_window

    from hicache_ext.copy import copy_pages, make_plan
    from hicache_ext.errors import PageIndexError
    from hicache_ext.layout import PagedBuffer

    rng = random.Random(seed)
    for case in range(12):
        src_spec, dst_spec = random_pair(rng)
        src = guarded(src_spec, random_bytes(rng, src_spec.num_bytes))
        dst = guarded(dst_spec, POISON)
        src_ids, dst_ids = random_ids(rng, src_spec, dst_spec)
        window = random_window(rng, src_spec, dst_spec)
        plan = make_plan(src_spec, dst_spec, **vars(window))
        expected = oracle(src, dst, src_ids, dst_ids, window)

        on_gpu = GpuArray(dst.bytes.copy())
        source = register(src.bytes.copy()) if case % 2 else GpuArray(src.bytes.copy())
        from_buffer, to_buffer = PagedBuffer(source, src_spec), PagedBuffer(on_gpu, dst_spec)
        assert to_buffer.device == "cuda:0" and from_buffer.device == (
            "cpu" if case % 2 else "cuda:0"
        )
        ids = [np.array(given, rng.choice([np.int32, np.int64])) for given in (src_ids, dst_ids)]
        kinds = [rng.choice([GpuArray, list, np.asarray]) for _ in ids]
        given = [kind(one) for kind, one in zip(kinds, ids, strict=True)]
        num_sms = rng.choice([None, 1, 3])
        ticket = copy_pages(
            from_buffer, given[0], to_buffer, given[1], plan=plan, num_sms=num_sms, stream=0
        )
        ticket.wait()
        ticket.wait(stream=0)
        assert ticket.query()
        num_copied = sum(s >= 0 and d >= 0 for s, d in zip(src_ids, dst_ids, strict=True))
        assert ticket.result() == num_copied * plan.page_bytes, (case, kinds)
        np.testing.assert_array_equal(on_gpu.read(), expected, err_msg=f"seed {seed} case {case}")

    bad = GpuArray(np.array([dst_spec.num_pages + 3]))
    ticket = copy_pages(from_buffer, [0], to_buffer, bad)
    wanted = f"destination page id out of range: position=0 value={dst_spec.num_pages + 3}"
    expect_raise(PageIndexError, wanted, ticket.result)
    before = on_gpu.read()
    on_host = partial(copy_pages, from_buffer, [src_spec.num_pages], to_buffer, [0])
    expect_raise(PageIndexError, "source page id out of range: position=0", on_host)
    np.testing.assert_array_equal(on_gpu.read(), before)
    copy_pages(from_buffer, [0], to_buffer, [0])  # dropped at once
    print(f"sm_reg_worker: seed {seed} equal")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
