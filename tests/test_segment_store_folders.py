"""SegmentStore at open: folders that are not ours, or not writable, are refused and left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_tools import BASE, PAGE_BYTES, open_store, put

from hicache_ext.errors import StorageError
from hicache_ext.storage import SegmentStore


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def snapshot(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in paths}


def refuse(root: Path, reason: str) -> None:
    """Opening fails for this reason, names the path, and changes nothing."""
    before = snapshot(root.parent)
    with pytest.raises(StorageError, match=reason) as caught:
        open_store(root)
    assert str(root) in str(caught.value)
    assert snapshot(root.parent) == before


def test_a_file(root: Path) -> None:
    root.write_text("mine")
    refuse(root, "is a file, expected a folder")


def test_a_link_to_a_store(root: Path, tmp_path) -> None:
    open_store(tmp_path / "real").close()
    root.symlink_to(tmp_path / "real")
    refuse(root, "is a symbolic link")


def test_below_a_file(root: Path) -> None:
    root.write_text("mine")
    with pytest.raises(StorageError, match=f"{root}/below: Not a directory"):
        open_store(root / "below")


def test_where_nothing_can_be_created() -> None:
    with pytest.raises(StorageError, match="/proc/hicache-store: "):
        open_store(Path("/proc/hicache-store"))


def test_a_folder_with_other_things_in_it(root: Path) -> None:
    root.mkdir()
    (root / "thesis.tex").write_text("irreplaceable")
    refuse(root, "holds 'thesis.tex' but no STORE.json: it is not ours")


def test_an_empty_folder_is_taken_and_made_private(root: Path) -> None:
    root.mkdir(mode=0o775)
    open_store(root).close()
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_store_that_others_may_write(root: Path) -> None:
    open_store(root).close()
    root.chmod(0o777)
    refuse(root, "writable by other users")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": "hicache_ext page store", "version": 2}', "version is 2, expected 3"),
        ('{"format": "hicache_ext page store", "version": 4}', "version is 4, expected 3"),
        ('{"format": "other", "version": 3}', "format is 'other'"),
        ('["a list"]', r"another format: found \['a list'\]"),
        ("{", "not readable as JSON"),
        ("", "not readable as JSON"),
    ],
)
def test_another_format_version(root: Path, text: str, reason: str) -> None:
    open_store(root).close()
    (root / "STORE.json").write_text(text)
    refuse(root, reason)


def manifest_of(root: Path) -> Path:
    (path,) = root.glob("full-*/MANIFEST.json")
    return path


def test_the_manifest_says_everything(root: Path) -> None:
    open_store(root).close()
    manifest = json.loads(manifest_of(root).read_text())
    assert manifest["namespace"] == BASE.as_dict() and manifest["digest"] == BASE.digest()
    assert manifest["page_bytes"] == PAGE_BYTES and manifest["pool"] == "full"


@pytest.mark.parametrize(
    "change", [{"page_bytes": 4096}, {"digest": "0" * 64}, {"namespace": {}}, {"extra": None}]
)
def test_a_folder_of_another_layout(root: Path, change: dict) -> None:
    open_store(root).close()
    path = manifest_of(root)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refuse(root, f"belongs to another layout: {next(iter(change))} is")


def test_a_namespace_folder_without_manifest(root: Path) -> None:
    store = open_store(root)
    put(store, [1])
    store.close()
    manifest_of(root).unlink()
    refuse(root, "no MANIFEST.json")


def test_bad_arguments(root: Path) -> None:
    with pytest.raises(StorageError, match=r"pools \['full'\] but namespaces for \['swa'\]"):
        SegmentStore(root, {"swa": BASE}, {"full": 8})
    with pytest.raises(StorageError, match="page_bytes=0"):
        SegmentStore(root, {"full": BASE}, {"full": 0})
    with pytest.raises(StorageError, match=r"pool name '\.\./x'"):
        SegmentStore(root, {"../x": BASE}, {"../x": 8})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_bytes": 8191}, "max_bytes=8191, below one page"),
        ({"max_bytes": {"full": 8191}}, "takes 8192 bytes, more than the quota of max_bytes=8191"),
        ({"max_bytes": {"swa": 1 << 20}}, r"pools \['full'\] but quotas for \['swa'\]"),
        ({"segment_bytes": 8191}, "takes 8192 bytes, more than a segment of segment_bytes=8191"),
    ],
)
def test_sizes_that_do_not_hold_a_page(root: Path, options: dict, reason: str) -> None:
    with pytest.raises(StorageError, match=reason):
        open_store(root, **options)


AS_NOBODY = """
import os, sys
sys.path[:0] = {paths!r}
from store_tools import open_store
from hicache_ext.errors import StorageError
from pathlib import Path
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open_store(Path({root!r}))
except StorageError as error:
    print(error)
"""


def open_unprivileged(root: Path) -> str:
    """What opening says in a process that is not root."""
    script = AS_NOBODY.format(paths=[p for p in sys.path if p], root=str(root))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def shared_folder(tmp_path_factory):
    """A folder that another user can reach; pytest's own are private."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="hicache-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_a_store_of_another_user(shared_folder: Path) -> None:
    open_store(shared_folder / "store").close()
    (shared_folder / "store").chmod(0o755)
    assert "belongs to user 0, this process is user 65534" in open_unprivileged(
        shared_folder / "store"
    )


def test_a_folder_that_may_not_be_written(shared_folder: Path) -> None:
    root = shared_folder / "store"
    store = open_store(root)
    put(store, [1])
    store.close()
    root.chmod(0o500)
    if os.geteuid() == 0:
        for path in [root, *root.rglob("*")]:
            os.chown(path, 65534, 65534)
    assert f"store {root} is not writable by this process" in open_unprivileged(root)
    assert "Permission denied" in open_unprivileged(root / "new")
    root.chmod(0o700)
