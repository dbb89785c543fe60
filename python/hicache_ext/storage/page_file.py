"""The file of one page, [header | payload]: written once, renamed into place, verified on read."""

import hashlib
import os
import struct
from enum import Enum

from ..errors import StorageError

FORMAT_VERSION = 1
HEADER_BYTES = 128
_MAGIC = b"HICPAGE\0"
# magic, version, header bytes, payload bytes, namespace; then key 32, checksum 16, zeros 24
_PREFIX = struct.Struct("<8sIIQ32s")
_ZEROS = bytes(HEADER_BYTES - _PREFIX.size - 32 - 16)
_SEED = struct.Struct("<Q24x")  # the first 8 bytes of a key

_OPEN_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Durability(Enum):
    """When a written page survives a power loss; a killed process loses nothing in either mode."""

    NONE = "none"  # when the kernel gets round to it; a torn page is found by its checksum
    PAGE = "page"  # before write_from returns True


class PageFormat:
    """What the page files of one pool and namespace contain."""

    def __init__(self, pool: str, namespace_digest: str, page_bytes: int) -> None:
        try:
            from xxhash import xxh3_128_digest
        except ImportError as error:
            raise StorageError(
                "LocalStore needs xxhash for its checksums: pip install 'hicache_ext[storage]'"
            ) from error
        self._checksum = xxh3_128_digest  # releases the GIL for large pages
        owner = hashlib.sha256(f"{pool}/{namespace_digest}".encode()).digest()
        self._prefix = _PREFIX.pack(_MAGIC, FORMAT_VERSION, HEADER_BYTES, page_bytes, owner)
        self.page_bytes = page_bytes
        self.file_bytes = HEADER_BYTES + page_bytes

    def header(self, key: bytes, page: memoryview) -> bytes:
        """The only header that this page may have under this key: a reader compares all of it.

        The checksum is seeded by the key, so a payload is worth nothing under another one.
        """
        (seed,) = _SEED.unpack(key)
        return b"".join((self._prefix, key, self._checksum(page, seed=seed), _ZEROS))


def page_path(key: bytes) -> str:
    """Where a page lies below its namespace folder: in one of 16, by the first digit of the key.

    Few, because a file system spreads folders over the disk, and a batch should lie together.
    """
    name = key.hex()
    return f"{name[0]}/{name}"


def open_page(dir_fd: int, key: bytes) -> int:
    """A descriptor to read from; FileNotFoundError, or ELOOP where a link lies in its place."""
    return os.open(page_path(key), _OPEN_READ, dir_fd=dir_fd)


def has_page(dir_fd: int, key: bytes, file_bytes: int) -> bool:
    """Whether a page file of the right length is there; its content is not looked at."""
    path = page_path(key)
    if not os.access(path, os.F_OK, dir_fd=dir_fd):  # a third of the cost of a stat that raises
        return False
    try:
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_size == file_bytes
    except OSError:
        return False


def publish_page(
    dir_fd: int, temp_name: str, key: bytes, header: bytes, page: memoryview, durability: Durability
) -> None:
    """Write under a temporary name beside the page's own, then rename: readers see all or nothing.

    OSError if that fails; no temporary file is left then.
    """
    path = page_path(key)
    fan_out = path[0]
    temp_path = f"{fan_out}/{temp_name}"
    try:
        fd = os.open(temp_path, _OPEN_NEW, 0o600, dir_fd=dir_fd)
    except FileNotFoundError:
        make_folder(dir_fd, fan_out)
        fd = os.open(temp_path, _OPEN_NEW, 0o600, dir_fd=dir_fd)
    try:
        try:
            _write_all(fd, header, page)
            if durability is Durability.PAGE:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        os.rename(temp_path, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        unlink_if_there(dir_fd, temp_path)
        raise
    if durability is Durability.PAGE:
        sync_folder(dir_fd, fan_out)


def _write_all(fd: int, header: bytes, page: memoryview) -> None:
    written = os.writev(fd, [header, page])
    if written < len(header) + page.nbytes:  # rare: the disk is full, or nearly
        rest = memoryview(header + bytes(page))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def make_folder(dir_fd: int, name: str) -> None:
    """Create a folder (0700) unless it is there, or another process just made it."""
    try:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        return


def sync_folder(dir_fd: int, name: str) -> None:
    """Make the renames into a folder durable."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unlink_if_there(dir_fd: int, path: str) -> bool:
    """Whether a file was there and is gone now; other failures are the same as not being there."""
    try:
        os.unlink(path, dir_fd=dir_fd)
    except OSError:
        return False
    return True
