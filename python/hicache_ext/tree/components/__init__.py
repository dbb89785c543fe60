"""The cache kinds of a tree."""

from hicache_ext.tree.components.base import Component
from hicache_ext.tree.components.full import Full
from hicache_ext.tree.components.mamba import Mamba
from hicache_ext.tree.components.swa import Swa

__all__ = ["Component", "Full", "Mamba", "Swa"]
