"""The rules of the house, checked: who may include or import whom, and how big things may get."""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_tools import ROOT, load_setup, need, read_sources

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 70
NATIVE_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
PACKAGE = ROOT / "python/hicache_ext"

# Floors of the Python layer, lowest first; what is not named is on the second, where pages are.
# Modules import from their own floor or from below, and packages in ROOMS not from each other.
FLOORS = (
    {"errors", "tier"},
    {"_C", "allocator", "arrays", "copy", "keys", "layout", "plan", "pool", "..."},
    {"agreement", "storage", "tree"},
    {"flow"},
    {
        "cache",
        "cache_base",
        "cache_events",
        "cache_prefetch",
        "cache_store",
        "cache_transfer",
        "config",
        "events",
        "history",
        "match",
        "stats",
    },
    {"integrations"},
    {"cli"},
)
ROOMS = {"agreement", "storage", "tree"}
ROOMS_OF_CSRC = {"cpu", "cuda", "host", "storage", "bindings"}


def tracked() -> list[Path]:
    """The files of the checkout that git knows, or all but the built ones outside of git."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == 0:
        paths = [ROOT / name for name in done.stdout.splitlines()]
    else:
        skip = {".venv", "build", "out", ".cache"}
        paths = [p for p in ROOT.rglob("*") if not skip & set(p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


FILES = tracked()
NATIVE = [path for path in FILES if path.suffix in NATIVE_SUFFIXES]
PYTHON = [path for path in FILES if path.suffix == ".py"]
MODULES = [path for path in PYTHON if path.is_relative_to(PACKAGE)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def native_functions(path: Path) -> Iterator[tuple[int, int]]:
    """(line, length) of what looks like a function; clang-format makes the shape reliable."""
    lines = path.read_text().splitlines()
    other = re.compile(
        r"\s*(namespace|struct|class|enum|union|extern|if|for|while|switch|else|do)\b"
    )
    for last, line in enumerate(lines):
        if not line.endswith("{"):
            continue
        first = last  # a head over several lines: go up to where it begins
        while first > 0 and (
            sum(row.count("(") - row.count(")") for row in lines[first : last + 1]) < 0
            or lines[first - 1].endswith(",")
            or lines[first].lstrip().startswith(":")
        ):
            first -= 1
        head = lines[first]
        if "(" not in head or other.match(head):
            continue
        indent = head[: len(head) - len(head.lstrip())]
        ends = (i for i in range(last + 1, len(lines)) if lines[i].startswith(f"{indent}}}"))
        yield first + 1, next(ends, len(lines)) - first + 1


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 10 and len(NATIVE) > 5 and any(p.suffix == ".cpp" for p in NATIVE)


def test_files_stay_small() -> None:
    code = [*NATIVE, *PYTHON, *(path for path in FILES if path.suffix == ".pyi")]
    sizes = {name(path): len(path.read_text().splitlines()) for path in code}
    assert {file: n for file, n in sizes.items() if n > MAX_FILE_LINES} == {}
    assert sizes["setup.py"] <= 165
    assert len((ROOT / "CMakeLists.txt").read_text().splitlines()) <= 115


def test_functions_stay_small() -> None:
    long = []
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                long += [(name(path), node.lineno, length)] * (length > MAX_FUNCTION_LINES)
    for path in NATIVE:
        functions = native_functions(path)
        long += [(name(path), line, n) for line, n in functions if n > MAX_FUNCTION_LINES]
    assert long == []


def test_native_function_finder_sees_them() -> None:
    found = sum(1 for path in NATIVE for _ in native_functions(path))
    assert found > len(NATIVE)


def test_torch_and_pybind_stop_at_the_bindings() -> None:
    for path in NATIVE:
        foreign = [inc for inc in includes(path) if re.match(r"torch/|ATen/|c10/", inc)]
        assert foreign == [], name(path)
        if "bindings" not in path.parts:
            bound = [inc for inc in includes(path) if re.match(r"pybind11/|Python\.h", inc)]
            assert bound == [], name(path)


def test_native_includes_go_down() -> None:
    """include/ knows only itself; each other room knows include/ and its own folder."""
    for path in NATIVE:
        if not path.is_relative_to(ROOT / "csrc"):
            continue
        room = path.relative_to(ROOT / "csrc").parts[0]
        for inc in includes(path):
            if (ROOT / "csrc/include" / inc).exists():
                continue
            project = [p for p in NATIVE if name(p).endswith(f"/{inc}")]
            local = (path.parent / inc).exists() and room in ROOMS_OF_CSRC
            assert not project or local, f"{name(path)} includes {inc}"
            assert ".." not in inc, f"{name(path)} includes {inc}"


def test_public_headers_compile_alone() -> None:
    compiler, cuda_home = need("c++"), load_setup().select_cuda()
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/csrc/include", "-x", "c++"]
    flags += [f"-I{cuda_home}/include"] if cuda_home else []
    headers = [p for p in NATIVE if p.is_relative_to(ROOT / "csrc/include") and p.suffix == ".h"]
    if cuda_home is None:
        headers = [path for path in headers if "<cuda" not in path.read_text()]
    running = [
        subprocess.Popen(
            [compiler, *flags, "-fsyntax-only", "-include", path, "/dev/null"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in headers
    ]
    said = {name(path): proc.communicate()[1] for path, proc in zip(headers, running, strict=True)}
    assert {file: text for file, text in said.items() if text} == {}


def test_every_source_is_listed_once() -> None:
    listed = read_sources("cpu", "cuda", "uring")
    there = [name(p) for p in NATIVE if name(p).startswith("csrc/") and p.suffix in {".cpp", ".cu"}]
    assert sorted(listed) == sorted(there)
    assert [path for path in read_sources("cpu") if not path.endswith(".cpp")] == []
    # cpp_extension.load names an object after its source's basename: two of a name collide.
    assert [base for base, n in Counter(Path(p).name for p in listed).items() if n > 1] == []


def test_bindings_keep_their_names_apart() -> None:
    """They are compiled several in one unit: each has its own namespace."""
    for path in (ROOT / "csrc/bindings").glob("bind_*.cpp"):
        own = f"namespace hicache::bindings::{path.stem.removeprefix('bind_')} {{"
        assert own in path.read_text(), f"{name(path)} has no `{own}`"


def floor_of(module: str) -> int:
    return next((i for i, names in enumerate(FLOORS) if module in names), 1)


def package_imports(path: Path) -> set[str]:
    """What a module imports of the package: the first name below hicache_ext of each."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from ..errors import x` in hicache_ext/tree/node.py is hicache_ext.errors
            above = ".".join(name(path).split("/")[1 : -node.level or None]) if node.level else ""
            module = ".".join(filter(None, [above, node.module]))
            nested = [f"{module}.{alias.name}" for alias in node.names]
            full = nested if module == "hicache_ext" else [module]
        else:
            continue
        found |= {part.split(".")[1] for part in full if part.startswith("hicache_ext.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return  # the package's front door names what it offers, from every floor
    for other in sorted(package_imports(path)):
        assert floor_of(other) <= floor_of(own), f"{own} imports {other}, which is above it"
        assert other == own or not {own, other} <= ROOMS, f"{own} and {other} share a floor"


def test_tree_needs_nothing_but_python() -> None:
    for path in MODULES:
        if path.is_relative_to(PACKAGE / "tree"):
            text = path.read_text()
            assert not re.search(r"^\s*(import|from) (torch|numpy)\b", text, re.M), name(path)
            core = {"_C"} if path.name.startswith("native") else set()
            allowed = {"errors", "keys", "oplog", "tier", "tree", *core}
            assert package_imports(path) <= allowed, name(path)


def test_no_error_is_swallowed() -> None:
    """No bare except; a broad one has to raise, or to hand on what it caught."""
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            place = f"{name(path)}:{node.lineno}"
            assert node.type is not None, f"{place}: bare except"
            if not re.search(r"\b(Base)?Exception\b", ast.unparse(node.type)):
                continue
            inside = [part for stmt in node.body for part in ast.walk(stmt)]
            raises = any(isinstance(part, ast.Raise) for part in inside)
            handed_on = {node.name, "traceback"}
            used = any(isinstance(part, ast.Name) and part.id in handed_on for part in inside)
            assert raises or used, f"{place}: swallows every error"


def public_definitions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions, classes and methods of a module whose names do not start with an underscore."""
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) and node.name[0] != "_" else []
        for part in (node, *inner):
            if isinstance(part, ast.FunctionDef | ast.ClassDef) and part.name[0] != "_":
                yield part.name, part


def test_public_things_have_docstrings() -> None:
    """What is one statement long says it by its name; a method that fills a protocol, there."""
    found = [(path, *item) for path in MODULES for item in public_definitions(path)]
    documented = {what for _, what, node in found if ast.get_docstring(node)}
    bare = [
        f"{name(path)}:{node.lineno} {what}"
        for path, what, node in found
        if what not in documented
        and not (isinstance(node, ast.FunctionDef) and len(node.body) == 1)
    ]
    assert bare == []


def test_no_path_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.])/(root|work|home/\w+|opt/wheels|tmp/wt)/|\.pyenv/versions/\d")
    for path in FILES:
        if path == Path(__file__) or path.suffix in {".png", ".json", ".bin"}:
            continue
        found = [line for line in path.read_text().splitlines() if machine.search(line)]
        assert found == [], name(path)
