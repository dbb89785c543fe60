"""What a user may get wrong is told while SGLang attaches, with key and value."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import sglang_pools as sg

from hicache_ext.errors import StorageError
from hicache_ext.integrations.sglang.config import _OWN
from hicache_ext.integrations.sglang.stores import _KINDS

DOCUMENT = Path(__file__).parent.parent / "docs/sglang.md"


def attach(root: Path, extra: dict, **fields):
    config = sg.config_of(root, **fields)
    kept = dict(config.extra_config)
    for name, value in extra.items():
        if value is None:
            kept.pop(name)
        else:
            kept[name] = value
    config = dataclasses.replace(config, extra_config=kept)
    return sg.attach(config, sg.mha_pool("page_first"))


WRONG = {
    "unknown key 'rooot'": {"rooot": "/x"},
    'needs "root"': {"root": None},
    "and not both": {"store": {"kind": "local", "root": "x"}},
    "store='here' is no object": {"root": None, "store": "here"},
    "kind=None is none of": {"root": None, "store": {"root": "x"}},
    "kind='tape' is none of": {"root": None, "store": {"kind": "tape"}},
    "needs 'root'": {"root": None, "store": {"kind": "local"}},
    "store 'local': unknown key 'size'": {
        "root": None,
        "store": {"kind": "local", "root": "x", "size": 1},
    },
    "'sometimes' is not a valid Durability": {
        "root": None,
        "store": {"kind": "local", "root": "x", "durability": "sometimes"},
    },
    "stores='x' is no list": {"root": None, "store": {"kind": "fallback", "stores": "x"}},
    "needs 'stores'": {"root": None, "store": {"kind": "fallback", "stores": []}},
    "kind='tape'": {
        "root": None,
        "store": {
            "kind": "fallback",
            "stores": [{"kind": "local", "root": "near"}, {"kind": "tape"}],
        },
    },
    "revision=7 is no text": {"revision": 7},
    "model=[] is no text": {"model": []},
    "num_kv_heads=-1 is no count": {"num_kv_heads": -1},
    "num_kv_heads=True is no count": {"num_kv_heads": True},
    "num_kv_heads=2.5 is no count": {"num_kv_heads": 2.5},
    "timeout_s=0 is no time": {"timeout_s": 0},
    "timeout_s='1' is no time": {"timeout_s": "1"},
    "timeout_s=inf is no time": {"timeout_s": float("inf")},
    "timeout_s=nan is no time": {"timeout_s": float("nan")},
}


@pytest.mark.parametrize("told", WRONG)
def test_a_wrong_setting_is_told(tmp_path: Path, told: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as caught:
        attach(tmp_path / "store", WRONG[told])
    assert told in str(caught.value)


def test_a_model_without_a_name_needs_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match='set "model"'):
        attach(tmp_path, {}, model_name=None)
    attach(tmp_path, {"model": "mine"}, model_name=None).close()


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(StorageError, match="not ours"):
        attach(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_context_shards_are_refused(tmp_path: Path) -> None:
    fields = {"is_mla_model": True, "dcp_size": 2, "tp_size": 2, "logical_page_size": 8}
    with pytest.raises(StorageError, match="dcp_size=2"):
        attach(tmp_path, {}, **fields)


def test_heads_that_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    config = sg.config_of(tmp_path, tp_lcm_size=8, should_split_heads=True)
    with pytest.raises(StorageError, match="cannot be cut by heads"):
        sg.attach(config, sg.mha_pool("page_head", num_heads=4))


def test_what_sglang_parses_is_what_we_take(tmp_path: Path) -> None:
    """The launch command of docs/sglang.md, through SGLang's own parser."""
    command = re.search(r"extra-config '(.*?)'", DOCUMENT.read_text(), re.DOTALL)
    settings = json.loads(command[1]) | {
        "root": str(tmp_path),
        "prefetch_threshold": 64,
        "hicache_storage_pass_prefix_keys": True,
    }
    extra, threshold, *_ = sg.HybridCacheController.parse_storage_backend_extra_config(
        json.dumps(settings)
    )
    assert threshold == 64 and settings["interface_v1"] == 1
    config = dataclasses.replace(sg.config_of(tmp_path), extra_config=extra)
    sg.attach(config, sg.mha_pool("page_first")).close()


def test_the_document_has_every_key() -> None:
    text = DOCUMENT.read_text()
    assert {key for key in _OWN if f"| `{key}` |" not in text} == set()
    for kind, opens in _KINDS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{kind}` |")]
        parameters = inspect.signature(opens).parameters.values()
        keys = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert set(re.findall(r"`(\w+)`", line)) == {kind, *keys}, kind


def test_a_setting_for_each_kind_of_store_reaches_it(tmp_path: Path, monkeypatch) -> None:
    """Servers that are not there: what is told is of the store that was asked for."""
    for setting, told in (
        ({"kind": "redis", "server": "redis://127.0.0.1:1"}, "127.0.0.1:1"),
        ({"kind": "s3", "bucket": "b"}, "bucket 'b'"),
    ):
        with pytest.raises(StorageError, match=told):
            attach(tmp_path, {"root": None, "store": setting})
