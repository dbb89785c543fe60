"""What ptxas makes of the kernels, read back: no spill, no call, 16-byte accesses, loads first,
bulk copies where they belong.

Needs nvcc, and for the instructions nvdisasm (pip install nvidia-cuda-nvdisasm); no GPU.
"""

import os
import re
import shutil
import struct
import sysconfig
from functools import cache
from pathlib import Path

import pytest
from build_tools import ROOT, load_setup, read_sources, run

from hicache_ext import _C

ARCHS = ("80", "90", "100", "120")
NEWEST = ARCHS[-1]
archs = pytest.mark.parametrize("arch", ARCHS)
KERNEL_FILES = [path for path in read_sources("cuda") if path.endswith(".cu")]
MAX_REGISTERS_OF_SM = 65536


@cache
def compile_cubin(source: str, arch: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """The cubin with the flags of setup.py, where a warning is an error; and for each kernel
    (mangled) what ptxas said of its registers and stack."""
    home = load_setup().select_cuda()
    if home is None:
        pytest.skip("no nvcc of 12.8 or later")
    cubin = folder / f"{Path(source).stem}.{arch}.cubin"
    flags = [
        f for f in load_setup().make_extension(home).extra_compile_args["nvcc"] if "code=" not in f
    ]
    assert "-Werror=all-warnings" in flags
    flags += ["-DHICACHE_WITH_CUDA", f"-I{ROOT}/csrc/include", "-Xptxas=-v"]
    told = run(home / "bin/nvcc", "-cubin", f"-arch=sm_{arch}", *flags, "-o", cubin, source)
    return cubin, dict(re.findall(r"entry function '(\w+)'(.*?registers)", told, re.S))


@cache
def disassemble(source: str, arch: str, folder: Path) -> dict[str, list[str]]:
    """Per kernel its instructions in order, without addresses and predicates."""
    cubin, _ = compile_cubin(source, arch, folder)
    packaged = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvdisasm"))
    nvdisasm = shutil.which("nvdisasm") or (packaged and packaged[-1])
    if not nvdisasm:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    kernels: dict[str, list[str]] = {}
    for row in run(nvdisasm, "-c", cubin).splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", row):
            current = kernels.setdefault(section[1], [])
        elif code := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:\{ )?(?:@!?\w+ )?([A-Z][\w.]*)", row):
            current.append(code[1])
    return kernels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cubins")


def copy_shapes() -> dict[str, tuple[int, int]]:
    """Shape name -> (threads of a block, loads in flight of a lane), of copy_worker.h."""
    text = (ROOT / "csrc/include/hicache/copy_worker.h").read_text()
    found = re.findall(r"struct (\w+Shape) \{[^}]*kUnroll = (\d+), kThreads = (\d+)", text)
    return {shape: (int(threads), int(unroll)) for shape, unroll, threads in found}


@pytest.mark.parametrize("source", KERNEL_FILES)
@archs
def test_no_kernel_spills_or_calls(source: str, arch: str, folder: Path) -> None:
    _, properties = compile_cubin(source, arch, folder)
    assert properties
    for kernel, told in properties.items():
        clean = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
        assert clean in told, f"{kernel}: {told}"
    for kernel, codes in disassemble(source, arch, folder).items():
        assert "EXIT" in codes
        # Without a RET there is no subroutine: what sm_80 calls (CALL.REL) is the way out of the
        # loop. An absolute call goes to what the driver brings.
        bad = [code for code in codes if re.match(r"(LDL|STL|RET|JCAL|BRX|CALL\.ABS)\b", code)]
        assert bad == [], kernel


@archs
def test_copy_moves_16_bytes_and_loads_before_it_stores(arch: str, folder: Path) -> None:
    kernels = disassemble("csrc/cuda/copy.cu", arch, folder)
    shapes = copy_shapes()
    assert len(shapes) == len(kernels) >= 2
    for shape, (_, unroll) in shapes.items():
        (codes,) = [codes for kernel, codes in kernels.items() if shape in kernel]
        wide = [code[0] for code in codes if re.match(r"(LDG|STG)\b.*\b128\b", code)]
        in_flight = max(len(run_of_loads) for run_of_loads in "".join(wide).split("S"))
        assert in_flight >= unroll, f"{shape}: {in_flight} loads of 16 bytes before a store"
        assert wide.count("S") >= unroll, shape
        generic = [code for code in codes if re.match(r"(LD|ST)(\.|$)", code)]
        assert generic == [], f"{shape}: accesses that do not know that they are global"


@archs
def test_copy_fills_an_sm_with_one_block(arch: str, folder: Path) -> None:
    """The blocks are persistent, one per SM: the registers of all threads must fit in it."""
    _, properties = compile_cubin("csrc/cuda/copy.cu", arch, folder)
    for shape, (threads, _) in copy_shapes().items():
        (told,) = [told for kernel, told in properties.items() if shape in kernel]
        used = re.search(r"Used (\d+) registers", told)
        assert used is not None and int(used[1]) * threads <= MAX_REGISTERS_OF_SM, told


@archs
def test_bulk_copies_are_where_they_belong(arch: str, folder: Path) -> None:
    """From sm_90 on both directions, with barriers for the loads; in the image before, nothing."""
    (codes,) = disassemble("csrc/cuda/copy_bulk.cu", arch, folder).values()
    bulk = {code for code in codes if code.startswith("UBLKCP")}
    if arch == "80":
        assert bulk == set() and len([code for code in codes if code != "NOP"]) < 16
        return
    assert {code.split(".")[1] for code in bulk} == {"S", "G"}  # to shared memory, and from it
    assert any(code.startswith("SYNCS.PHASECHK") for code in codes)
    assert not [code for code in codes if re.match(r"(LDG|STG|LDS|STS)\b.*\b128\b", code)]
    generic = [code for code in codes if re.match(r"(LD|ST)(\.|$)", code)]
    assert generic == [], "accesses that do not know that they are global"


@archs
def test_the_bulk_kernel_leaves_registers_to_others(arch: str, folder: Path) -> None:
    _, properties = compile_cubin("csrc/cuda/copy_bulk.cu", arch, folder)
    (told,) = properties.values()
    used = re.search(r"Used (\d+) registers", told)
    assert used is not None and int(used[1]) <= 64, told


def images(module: bytes) -> list[set[tuple[str, int]]]:
    """For each source with kernels in a module: ("PTX" or "ELF", architecture) of its images."""
    found, magic = [], struct.pack("<I", 0xBA55ED50)
    at = module.find(magic)
    while at >= 0:
        header_bytes, num_bytes = struct.unpack_from("<HQ", module, at + 6)
        entry, end, seen = at + header_bytes, at + header_bytes + num_bytes, set()
        while entry < end:
            kind, header_bytes, num_bytes = struct.unpack_from("<HxxIQ", module, entry)
            (arch,) = struct.unpack_from("<I", module, entry + 28)
            seen.add(("PTX" if kind == 1 else "ELF", arch))
            entry += header_bytes + num_bytes
        found.append(seen)
        at = module.find(magic, end)
    return found


def test_the_module_has_every_kernel_for_every_architecture() -> None:
    if not _C.with_cuda or os.environ.get("HICACHE_CUDA_ARCHS"):
        pytest.skip("this build has no CUDA part, or not all of it")
    expected = {("ELF", int(arch)) for arch in ARCHS} | {("PTX", int(NEWEST))}
    assert images(Path(_C.__file__).read_bytes()) == [expected] * len(KERNEL_FILES)
