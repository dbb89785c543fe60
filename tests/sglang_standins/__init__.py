"""The real sglang package from PyPI, importable without a GPU and without what it depends on.

`with installed():` its storage classes, host pools and cache controllers can be imported. What they
import and never use on a CPU is given by stand-ins: names that exist, decorators that change
nothing, classes that can be inherited from. Afterwards the stand-ins are gone from sys.modules, so
that nobody else takes them for the real thing. sglang's own code is not touched; of PACKAGES the
__init__ is left out, since it loads the whole engine.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

VERSION = "0.5.23"

# Third parties that are not installed here, and parts of sglang that need them in earnest.
OTHERS = ("orjson", "psutil", "pybase64", "starlette", "triton", "zmq")
PARTS = (
    "sglang.kernels",
    "sglang.srt.configs.model_config",
    "sglang.srt.disaggregation",
    "sglang.srt.layers",
    "sglang.srt.model_executor",
)
PACKAGES = ("sglang", "sglang.srt", "sglang.srt.configs")


class _AnyType(type):
    """Of a class of which every attribute is another such class."""

    def __getattr__(cls, name: str) -> Any:
        return _any(name)

    def __call__(cls, *args: Any, **options: Any) -> Any:
        """A decorator without arguments returns what it decorates."""
        is_decorator = len(args) == 1 and callable(args[0]) and not options
        return args[0] if is_decorator else super().__call__()

    def __or__(cls, other: object) -> Any:
        return cls

    __ror__ = __or__


class _Any(metaclass=_AnyType):
    def __call__(self, function: Any = None, *args: Any, **options: Any) -> Any:
        """A decorator with arguments, called with what it decorates."""
        return function


def _any(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AnyType(name, (_Any,), {})


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _any(name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        is_ours = name.partition(".")[0] in OTHERS
        is_ours = is_ours or any(name == part or name.startswith(f"{part}.") for part in PARTS)
        return ModuleSpec(name, self, is_package=True) if is_ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "sglang.srt.layers.dp_attention":
            vars(module)["is_dp_attention_enabled"] = lambda: False


def why_missing() -> str | None:
    """None where the package is there."""
    if importlib.util.find_spec("sglang") is None:
        return f"sglang {VERSION} is not installed: pip install --no-deps sglang=={VERSION}"
    return None


@contextmanager
def installed() -> Iterator[None]:
    """Inside, sglang can be imported; what was imported stays usable."""
    found = importlib.util.find_spec("sglang")
    assert found is not None and found.origin is not None
    root = Path(found.origin).parent.parent
    for name in PACKAGES:
        if name not in sys.modules:
            package = ModuleType(name)
            folder = root.joinpath(*name.split("."))
            package.__path__ = [str(folder)]
            package.__spec__ = ModuleSpec(
                name, None, origin=str(folder / "__init__.py"), is_package=True
            )
            sys.modules[name] = package
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in OTHERS]:
            if isinstance(sys.modules[name], _StandIn):
                del sys.modules[name]
