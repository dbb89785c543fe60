"""What makes a native core: components that have a native twin, and the functions it calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hicache_ext.errors import LayoutError
from hicache_ext.keys import page_keys, page_keys_py, token_hash
from hicache_ext.tree.components import Component, Full, Mamba, Swa
from hicache_ext.tree.digest import TokenHash
from hicache_ext.tree.key import KeyUnit, PageKeys
from hicache_ext.tree.results import HostPaths
from hicache_ext.tree.strategy import Strategy

if TYPE_CHECKING:
    from hicache_ext import _C

CORES = ("python", "native", "auto")


def _native_full(component: Component) -> _C.TreeComponent:
    from hicache_ext import _C

    return _C.tree_full()


def _native_swa(component: Component) -> _C.TreeComponent:
    from hicache_ext import _C

    assert isinstance(component, Swa)
    return _C.tree_swa(component.window_tokens)


def _native_mamba(component: Component) -> _C.TreeComponent:
    from hicache_ext import _C

    return _C.tree_mamba()


# A subclass may have hooks of its own, so the type itself counts.
_NATIVE: dict[type[Component], Callable[[Component], _C.TreeComponent]] = {
    Full: _native_full,
    Mamba: _native_mamba,
    Swa: _native_swa,
}


class OfSomeCore:
    """What makes RadixTree(..., core="native") a NativeTree."""

    def __new__(
        cls, page_size: int, components: Sequence[Component], *, core: str = "python", **kwargs: Any
    ) -> OfSomeCore:
        if core not in CORES:
            raise LayoutError(f"core={core!r}, expected one of {CORES}")
        if core == "python" or (core == "auto" and not has_native_core(components)):
            return super().__new__(cls)
        from hicache_ext.tree.native import NativeTree  # a RadixTree: that module imports this one

        return super().__new__(NativeTree)


def has_native_core(components: Sequence[Component]) -> bool:
    """Whether each component has a native twin."""
    return all(type(component) in _NATIVE for component in components)


def make_core(
    page_size: int,
    unit: KeyUnit,
    components: Sequence[Component],
    strategy: Strategy,
    host_paths: HostPaths,
    keys: PageKeys,
    hash_of_tokens: TokenHash,
) -> _C.TreeCore:
    """A core with the twins of `components`; LayoutError where one has none."""
    from hicache_ext import _C

    if not has_native_core(components):
        names = [type(component).__name__ for component in components]
        raise LayoutError(f"not all of {names} have a native core")
    twins = [_NATIVE[type(component)](component) for component in components]
    return _C.TreeCore(
        page_size,
        unit.num_words,
        twins,
        strategy=getattr(_C.TreeStrategy, strategy.name),
        host_paths=getattr(_C.TreeHostPaths, host_paths.name),
        token_hash=_unless_native(hash_of_tokens),
        page_keys=_unless_native(keys),
    )


def _unless_native(function: Any) -> Any:
    """None for what the core computes itself."""
    return None if function in (token_hash, page_keys, page_keys_py) else function
