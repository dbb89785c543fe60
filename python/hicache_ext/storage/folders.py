"""The folders of a SegmentStore: opened only if they are ours, left untouched if they are not.

ROOT/STORE.json                             what this folder is; its format version
ROOT/<pool>-<digest>/MANIFEST.json          whose pages
ROOT/<pool>-<digest>/shard-<id>/     csrc/include/hicache/storage/page_pool.h
"""

import contextlib
import json
import os
import re
import secrets
import stat
from pathlib import Path

from ..errors import StorageError
from .namespace import StoreNamespace

FORMAT_VERSION = 3
_FORMAT = {"format": "hicache_ext page store", "version": FORMAT_VERSION}
_STORE_FILE = "STORE.json"
_MANIFEST_FILE = "MANIFEST.json"
_TEMP_PREFIX = "."
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_POOL = re.compile(r"[a-z0-9_]{1,64}")


def open_root(root: Path) -> int:
    """A descriptor of the store's root folder, created (0700) if missing.

    StorageError, with path and reason, for a link, a file, a folder of another owner or writable by
    others, one that holds other things, and one of another format version.
    """
    try:
        if not os.path.lexists(root):
            os.makedirs(root, 0o700, exist_ok=True)
        fd = _open_folder(root, None, root)
    except OSError as error:
        raise StorageError(f"store {root}: {error.strerror or error}") from error
    try:
        _check_owner(fd, root)
        _claim(fd, root, _STORE_FILE, dict(_FORMAT), "another format")
        _check_writable(fd, root)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_namespace(
    root_fd: int, root: Path, pool: str, namespace: StoreNamespace, page_bytes: int
) -> tuple[int, Path]:
    """A descriptor and the path of this pool's namespace folder, created (0700) if missing.

    StorageError where the folder's manifest is not that of this namespace.
    """
    if not _POOL.fullmatch(pool):
        raise StorageError(f"pool name {pool!r}: expected 1 to 64 of a-z, 0-9 and _")
    digest = namespace.digest()
    name = f"{pool}-{digest[:24]}"
    path = root / name
    manifest: dict[str, object] = {**_FORMAT, "pool": pool, "page_bytes": page_bytes}
    manifest |= {"digest": digest, "namespace": namespace.as_dict()}
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=root_fd)
        fd = _open_folder(name, root_fd, path)
    except OSError as error:
        raise StorageError(f"store {path}: {error.strerror or error}") from error
    try:
        _check_owner(fd, path)
        _claim(fd, path, _MANIFEST_FILE, manifest, "another layout")
        _check_writable(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd, path


def _open_folder(name: str | Path, dir_fd: int | None, path: Path) -> int:
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "a file"
        raise StorageError(f"store {path}: is {kind}, expected a folder")
    return os.open(name, _OPEN_FOLDER, dir_fd=dir_fd)


def _check_owner(fd: int, path: Path) -> None:
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        raise StorageError(
            f"store {path}: belongs to user {found.st_uid}, this process is user {os.geteuid()}"
        )


def _check_writable(fd: int, path: Path) -> None:
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
        raise StorageError(f"store {path} is not writable by this process")


def _claim(fd: int, path: Path, name: str, wanted: dict[str, object], what: str) -> None:
    """Check that the folder carries `wanted` in its file `name`; an empty folder receives it."""
    text = _read_claim(fd, path, name)
    if text is None:
        text = _write_claim(fd, path, name, wanted)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise StorageError(f"store {path / name}: not readable as JSON: {error}") from error
    if found != wanted:
        raise StorageError(f"store {path} belongs to {what}: {_difference(found, wanted)}")
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o022:
        raise StorageError(f"store {path}: writable by other users, expected mode 0700")


def _difference(found: object, wanted: dict[str, object]) -> str:
    if not isinstance(found, dict):
        return f"found {found!r}"
    for name in [*wanted, *found]:
        if name not in found or name not in wanted or found[name] != wanted[name]:
            return f"{name} is {found.get(name)!r}, expected {wanted.get(name)!r}"
    return "no difference"


def _read_claim(fd: int, path: Path, name: str) -> str | None:
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"store {path / name}: {error}") from error


def _write_claim(fd: int, path: Path, name: str, wanted: dict[str, object]) -> str:
    with os.scandir(fd) as entries:
        others = sorted(entry.name for entry in entries if not entry.name.startswith(_TEMP_PREFIX))
    if others:
        text = _read_claim(fd, path, name)  # another process may have claimed it a moment ago
        if text is None:
            raise StorageError(f"store {path}: holds {others[0]!r} but no {name}: it is not ours")
        return text
    text = json.dumps(wanted, indent=2, sort_keys=True) + "\n"
    temp = f"{_TEMP_PREFIX}claim-{secrets.token_hex(8)}"
    try:
        os.fchmod(fd, 0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temp, flags, 0o600, dir_fd=fd), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temp, name, src_dir_fd=fd, dst_dir_fd=fd)
    except OSError as error:
        raise StorageError(f"store {path} is not writable: {error.strerror}") from error
    return text
