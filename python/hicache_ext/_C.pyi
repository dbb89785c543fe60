"""The native module; one section per file of csrc/bindings/."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hicache_ext._C_emulators import CudaEmulator as CudaEmulator
from hicache_ext._C_emulators import Emulation as Emulation
from hicache_ext._C_emulators import emulate_copy as emulate_copy
from hicache_ext._C_groups import LANE_FORMAT as LANE_FORMAT
from hicache_ext._C_groups import LANE_NEUTRAL as LANE_NEUTRAL
from hicache_ext._C_groups import MAX_LANE_POOLS as MAX_LANE_POOLS
from hicache_ext._C_groups import LanePacker as LanePacker
from hicache_ext._C_groups import LaneSchema as LaneSchema
from hicache_ext._C_groups import NcclComm as NcclComm
from hicache_ext._C_groups import NcclExchange as NcclExchange
from hicache_ext._C_groups import NcclGroup as NcclGroup
from hicache_ext._C_groups import NcclLibrary as NcclLibrary
from hicache_ext._C_groups import NcclReduction as NcclReduction
from hicache_ext._C_groups import ShmGroup as ShmGroup
from hicache_ext._C_groups import lanes_unpack as lanes_unpack
from hicache_ext._C_host import MAX_PIN_CHUNK_BYTES as MAX_PIN_CHUNK_BYTES
from hicache_ext._C_host import DlpackTensor as DlpackTensor
from hicache_ext._C_host import HostMemory as HostMemory
from hicache_ext._C_host import HugePages as HugePages
from hicache_ext._C_host import PinApi as PinApi
from hicache_ext._C_host import Sharing as Sharing
from hicache_ext._C_host import cuda_pin_api as cuda_pin_api
from hicache_ext._C_host import pin_chunk_bytes as pin_chunk_bytes
from hicache_ext._C_host import pinned_regions_in as pinned_regions_in
from hicache_ext._C_host import slot_stride as slot_stride
from hicache_ext._C_storage import IoEngine as IoEngine
from hicache_ext._C_storage import IoOp as IoOp
from hicache_ext._C_storage import IoPath as IoPath
from hicache_ext._C_storage import PagePool as PagePool
from hicache_ext._C_storage import PoolDurability as PoolDurability
from hicache_ext._C_storage import probe_direct_io as probe_direct_io
from hicache_ext._C_storage import read_pools as read_pools
from hicache_ext._C_storage import write_pools as write_pools
from hicache_ext._C_tree import TreeComponent as TreeComponent
from hicache_ext._C_tree import TreeCore as TreeCore
from hicache_ext._C_tree import TreeHostPaths as TreeHostPaths
from hicache_ext._C_tree import TreeStrategy as TreeStrategy
from hicache_ext._C_tree import TreeWindow as TreeWindow
from hicache_ext._C_tree import tree_full as tree_full
from hicache_ext._C_tree import tree_mamba as tree_mamba
from hicache_ext._C_tree import tree_swa as tree_swa

# --- module.cpp
with_cuda: bool

# --- keys.cpp
def has_sha_ni() -> bool: ...
def sha256(data: bytes, impl: str = "auto") -> bytes: ...
def page_keys(tokens: bytes, page_size: int, seed: bytes, impl: str = "auto") -> list[bytes]: ...

# --- bind_xxh3.cpp
def xxh3_128_digest(data: Any, *, seed: int = 0, isa: str = "auto") -> bytes: ...

# --- bind_plan.cpp
class Ascending:
    SOURCE: Ascending
    DESTINATION: Ascending

class Planes:
    ONE_BUFFER: Planes
    TABLE: Planes

class PageLayout:
    def __init__(
        self,
        *,
        planes: Planes,
        num_pages: int,
        page_size: int,
        num_layers: int,
        num_kv: int,
        num_heads: int,
        head_bytes: int,
        num_groups: int,
        stride_page: int,
        stride_layer: int,
        stride_kv: int,
        stride_group: int,
        stride_token: int,
        stride_head: int,
    ) -> None: ...

class Plan:
    run_bytes: int
    run_bits: int
    align_bytes: int
    runs_per_page: int
    num_steps: int
    axes: list[tuple[int, int, int, int, int, int]]
    def locate(
        self, src_page: int, dst_page: int, run: int
    ) -> tuple[tuple[int, int], tuple[int, int]]: ...

def make_plan(
    src: PageLayout,
    dst: PageLayout,
    *,
    layers: tuple[int, int],
    kv: tuple[int, int],
    heads: tuple[int, int],
    tokens: tuple[int, int],
    ascending: Ascending,
    order: str = "pages",
) -> Plan: ...
def fast_div(n: int, divisor: int) -> int: ...

# --- bind_copy.cpp: page ids are int32 or int64 [n], as NumPy arrays or in GPU memory
MAX_PARTS: int

class Buffer:
    @staticmethod
    def of_range(address: int, num_bytes: int) -> Buffer: ...
    @staticmethod
    def of_planes(addresses: Sequence[int], plane_bytes: int) -> Buffer: ...
    def overlaps(self, other: Buffer) -> bool: ...

class IdArray:
    def __init__(self, *, address: int, width: int, size: int) -> None: ...

class PartFacts:
    num_positions: int
    align_bytes: int
    num_device_id_lists: int

class CopySet:
    num_bytes: int
    num_runs: int
    facts: list[PartFacts]
    shared: list[tuple[bool, int, int]]
    def __init__(self) -> None: ...
    def add(
        self,
        plan: Plan,
        src: Buffer,
        src_ids: npt.NDArray[Any] | IdArray,
        dst: Buffer,
        dst_ids: npt.NDArray[Any] | IdArray,
    ) -> None: ...
    def check_page_ids(self) -> int: ...

def array_address(array: npt.NDArray[Any], /) -> int: ...
def num_usable_cpus() -> int: ...
def has_isa(name: str) -> bool: ...
def copy_on_cpu(set: CopySet, *, reference: bool, num_threads: int, isa: str) -> int: ...

# --- bind_staging.cpp
def gather_slots(
    set: CopySet, *, seeds: npt.NDArray[np.uint64] | None, num_threads: int
) -> list[bytes | None]: ...
def scatter_slots(
    set: CopySet, *, seeds: npt.NDArray[np.uint64] | None, digests: bytes, num_threads: int
) -> list[bool]: ...

# --- bind_profile.cpp
with_nvtx: bool

class CopyDirection:
    HOST_TO_HOST: CopyDirection
    HOST_TO_DEVICE: CopyDirection
    DEVICE_TO_HOST: CopyDirection
    DEVICE_TO_DEVICE: CopyDirection

def is_profiled() -> bool: ...
def begin_copy(executor: str, direction: CopyDirection, num_bytes: int, num_runs: int) -> int: ...
def end_enqueue() -> None: ...
def end_copy(id: int) -> None: ...

# --- bind_cuda_copy.cpp
STAGING_BYTES: int

class StagingRing:
    slot_bytes: int
    def __init__(self, *, device: int, address: int, num_bytes: int) -> None: ...

class CopyTicket:
    is_captured: bool
    def query(self) -> bool: ...
    def wait(self) -> None: ...
    def wait_on_stream(self, stream: int) -> None: ...
    def result(self) -> int: ...

def is_capturing(device: int, stream: int) -> bool: ...
def order_streams(device: int, *, before: int, after: int) -> None: ...
def device_of_memory(address: int) -> int | None: ...
def copy_on_stream(
    set: CopySet,
    *,
    executor: str,
    device: int,
    num_sms: int,
    stream: int,
    priority: str | None = None,
    ring: StagingRing | None = None,
) -> CopyTicket: ...

# --- bind_cuda_device.cpp
class DeviceIdentity:
    uuid: str
    pci_bus_id: str
    driver_version: int
    sm_version: int
    num_sms: int
    is_coherent: bool

def device_identity(device: int) -> DeviceIdentity: ...

class DeviceScratch:
    address: int
    stream: int
    def __init__(self, *, device: int, num_bytes: int) -> None: ...
