"""hicache_ext as the L3 storage of an unmodified SGLang: --hicache-storage-backend dynamic.

docs/sglang.md has the launch command and the table of settings. What is here:
config.py   what the user may set, and its checks
stores.py   which store a setting opens
naming.py   under which names a pool's pages are stored: who else may read them
pages.py    where the bytes of a page lie in SGLang's host pools
metrics.py  what SGLang exports, and a log that does not flood
plugin.py   HiCacheExtStorage, which SGLang loads
"""

from .plugin import HiCacheExtStorage

__all__ = ["HiCacheExtStorage"]
