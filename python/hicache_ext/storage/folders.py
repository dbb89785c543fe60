"""The folders of a LocalStore: opened only if they are ours, left untouched if they are not.

ROOT/STORE.json                  what this folder is; its format version
ROOT/writer-<token>              locked (flock) while the store that writes under <token> is open
ROOT/<pool>-<digest>/MANIFEST.json
ROOT/<pool>-<digest>/a/abcdef...   one page; .<token>-<n> beside it while it is being written
"""

import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import StorageError
from .namespace import StoreNamespace
from .page_file import FORMAT_VERSION, make_folder, unlink_if_there

_FORMAT = {"format": "hicache_ext page store", "version": FORMAT_VERSION}
_STORE_FILE = "STORE.json"
_MANIFEST_FILE = "MANIFEST.json"
_WRITER_PREFIX = "writer-"
_TEMP_PREFIX = "."
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FAN_OUT = re.compile(r"[0-9a-f]")
_PAGE = re.compile(r"[0-9a-f]{64}")
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
        make_folder(root_fd, name)
        fd = _open_folder(name, root_fd, path)
    except OSError as error:
        raise StorageError(f"store {path}: {error.strerror or error}") from error
    try:
        _check_owner(fd, path)
        _claim(fd, path, _MANIFEST_FILE, manifest, "another layout")
    except BaseException:
        os.close(fd)
        raise
    return fd, path


def scan_pages(dir_fd: int, root_fd: int, path: Path) -> set[bytes]:
    """The keys of all page files; temporary files whose writer is gone are removed."""
    keys = set()
    for fan_out_fd in fan_out_fds(dir_fd, path):
        with os.scandir(fan_out_fd) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if _PAGE.fullmatch(name):
                keys.add(bytes.fromhex(name))
            elif name.startswith(_TEMP_PREFIX) and not _has_writer(root_fd, name):
                unlink_if_there(fan_out_fd, name)
    return keys


def remove_pages(dir_fd: int, path: Path) -> None:
    """Unlink every page file below a namespace folder; files being written stay."""
    for fan_out_fd in fan_out_fds(dir_fd, path):
        with os.scandir(fan_out_fd) as entries:
            names = [entry.name for entry in entries if _PAGE.fullmatch(entry.name)]
        for name in names:
            unlink_if_there(fan_out_fd, name)


def fan_out_fds(dir_fd: int, path: Path) -> Iterator[int]:
    """Each fan-out folder, open for the turn of the loop; StorageError where one is no folder."""
    with os.scandir(dir_fd) as entries:
        names = sorted(entry.name for entry in entries if _FAN_OUT.fullmatch(entry.name))
    for name in names:
        try:
            fd = _open_folder(name, dir_fd, path / name)
        except OSError as error:
            raise StorageError(f"store {path / name}: {error.strerror or error}") from error
        try:
            yield fd
        finally:
            os.close(fd)


class Writer:
    """A name for this store's temporary files that others can tell from a dead store's."""

    def __init__(self, root_fd: int, root: Path) -> None:
        """Also removes the names of writers that died. StorageError if `root` is not writable."""
        self._root_fd = root_fd
        try:
            _forget_dead_writers(root_fd)
            self.token, self._fd = _lock_new_token(root_fd)
        except OSError as error:
            raise StorageError(f"store {root} is not writable: {error.strerror}") from error
        self._num_temps = iter(range(1 << 62))  # next() is atomic

    def temp_name(self) -> str:
        return f"{_TEMP_PREFIX}{self.token}-{next(self._num_temps)}"

    def close(self) -> None:
        unlink_if_there(self._root_fd, _WRITER_PREFIX + self.token)
        os.close(self._fd)


def _lock_new_token(root_fd: int) -> tuple[str, int]:
    while True:
        token = secrets.token_hex(8)
        name = _WRITER_PREFIX + token
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(name, flags, 0o600, dir_fd=root_fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Between creating and locking, another store may have taken the file for a dead writer's.
        if os.fstat(fd).st_nlink == 1:
            return token, fd
        os.close(fd)


def _forget_dead_writers(root_fd: int) -> None:
    with os.scandir(root_fd) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_WRITER_PREFIX)]
    for name in names:
        try:
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root_fd)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unlink_if_there(root_fd, name)
        except BlockingIOError:
            pass  # alive
        finally:
            os.close(fd)


def _has_writer(root_fd: int, temp_name: str) -> bool:
    token = temp_name.removeprefix(_TEMP_PREFIX).partition("-")[0]
    try:
        os.stat(_WRITER_PREFIX + token, dir_fd=root_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


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
