"""GGUF to a folder for from_pretrained: against gguf, transformers, and broken input."""

import hashlib
import json
import random

import gguf
import numpy as np
import pytest
import torch

from hicache_ext.errors import ModelError
from hicache_ext.integrations import gemma_weights
from hicache_ext.integrations.gemma_tokenizer import derive_merges
from hicache_ext.integrations.gguf_file import read_gguf
from hicache_ext.integrations.models import load_model, load_tokenizer

LAYERS, HIDDEN, HEAD_DIM, HEADS, FFN = 6, 64, 32, 4, 96
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
PIECES = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), "  ", *"abc\u2581", "ab", "abc", "bc"]
BLOCK = {
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (HEAD_DIM, HIDDEN),
    "attn_v": (HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "attn_q_norm": (HEAD_DIM,),
    "attn_k_norm": (HEAD_DIM,),
    "attn_norm": (HIDDEN,),
    "post_attention_norm": (HIDDEN,),
    "ffn_norm": (HIDDEN,),
    "post_ffw_norm": (HIDDEN,),
    "ffn_gate": (FFN, HIDDEN),
    "ffn_up": (FFN, HIDDEN),
    "ffn_down": (HIDDEN, FFN),
}


@pytest.fixture(scope="module")
def gguf_path(tmp_path_factory):
    """A small Gemma-3 with the real names, written by the gguf library."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(str(path), "gemma3")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_sliding_window(8)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([0.0] * len(PIECES))
    writer.add_token_types([3] * 3 + [2, 1] + [6] * 256 + [4] + [1] * (len(PIECES) - 262))
    for key, token_id in (("pad", 0), ("eos", 1), ("bos", 2), ("unk", 3)):
        getattr(writer, f"add_{key}_token_id")(token_id)
    rng = np.random.default_rng(3)
    shapes = {"token_embd": (len(PIECES), HIDDEN), "output_norm": (HIDDEN,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in BLOCK.items()}
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q8_0
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def source(gguf_path):
    return read_gguf(gguf_path.read_bytes())


def test_reader_agrees_with_the_gguf_library(gguf_path, source):
    reader = gguf.GGUFReader(gguf_path)
    assert [t.name for t in source.tensors] == [t.name for t in reader.tensors]
    for mine, other in zip(source.tensors, reader.tensors, strict=True):
        want = gguf.quants.dequantize(other.data, other.tensor_type)
        assert mine.shape == tuple(reversed(other.shape.tolist()))
        assert np.array_equal(mine.to_float32(), want.reshape(mine.shape))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            assert source.metadata[key] == field.contents(), key


def test_converted_folder_loads(source, tmp_path):
    gemma_weights.convert(source, tmp_path, lambda stage, fraction: None)
    model, tokenizer = load_model(str(tmp_path)), load_tokenizer(str(tmp_path))
    stored = {t.name: t.to_float32() for t in source.tensors}
    state = model.state_dict()
    norm, plain = "blk.3.ffn_norm.weight", "blk.5.ffn_down.weight"
    layers = "model.layers"
    assert np.array_equal(
        state[f"{layers}.3.pre_feedforward_layernorm.weight"].numpy(), stored[norm] - 1.0
    )
    assert np.array_equal(state[f"{layers}.5.mlp.down_proj.weight"].numpy(), stored[plain])
    assert model.config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert model.config.sliding_window == 8
    assert model.config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    assert model.config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    ids = tokenizer("abc  ab")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "abc", "\u2581\u2581", "ab"]
    assert model(torch.tensor([ids])).logits.isfinite().all()


def test_merges_are_all_splits_longest_left_part_first():
    assert derive_merges(["a", "b", "c", "ab", "bc", "abc", "x"]) == [
        ("a", "b"),
        ("b", "c"),
        ("ab", "c"),
        ("a", "bc"),
    ]


def test_truncated_or_foreign_file_is_an_error(gguf_path):
    content = gguf_path.read_bytes()
    with pytest.raises(ModelError, match="not a GGUF version 3"):
        read_gguf(b"safetensors" * 10)
    rng = random.Random(5)
    for cut in [5, 30, len(content) - 1, *(rng.randrange(64, len(content)) for _ in range(20))]:
        with pytest.raises(ModelError, match=r"truncated|ends at"):
            read_gguf(content[:cut])


def test_missing_package_names_the_pin(monkeypatch, tmp_path):
    monkeypatch.setattr(gemma_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"gguf==1\.0\.0"):
        gemma_weights.ensure_gemma3_270m(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_are_refused_and_leave_nothing(monkeypatch, gguf_path, tmp_path):
    monkeypatch.setattr(gemma_weights, "part_paths", lambda: [gguf_path])
    with pytest.raises(ModelError, match=r"sha256=.*pinned is a5fd3b62"):
        gemma_weights.ensure_gemma3_270m(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_conversion_is_published_once(monkeypatch, gguf_path, tmp_path):
    digest = hashlib.sha256(gguf_path.read_bytes()).hexdigest()
    monkeypatch.setattr(gemma_weights, "part_paths", lambda: [gguf_path])
    monkeypatch.setattr(gemma_weights, "SHA256", digest)
    stale = tmp_path / f"gemma3-270m-{digest[:12]}-r{gemma_weights._REVISION}"
    stale.mkdir()  # an interrupted copy, without the mark that is written last
    (stale / "model.safetensors").write_text("half")
    stages = []
    folder = gemma_weights.ensure_gemma3_270m(tmp_path, lambda stage, _: stages.append(stage))
    assert folder == stale
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder.name]
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gemma3_text"
    monkeypatch.setattr(gemma_weights, "part_paths", lambda: pytest.fail("converted twice"))
    assert gemma_weights.ensure_gemma3_270m(tmp_path) == folder
    assert stages[-1] == "ready"


@pytest.mark.long
def test_real_tokenizer_equals_transformers_own(tmp_path):
    """transformers derives the merges itself (half a minute); every id of a long text is equal."""
    import pydoc_data.topics

    from transformers import AutoTokenizer

    try:
        parts = gemma_weights.part_paths()
    except ModelError as exc:
        pytest.skip(str(exc))
    (tmp_path / "gemma.gguf").write_bytes(b"".join(p.read_bytes() for p in parts))
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="gemma.gguf")
    mine = load_tokenizer(str(gemma_weights.ensure_gemma3_270m()))
    text = (
        "\n".join(pydoc_data.topics.topics.values()) + "\u2581\u2581 \t\t na\u00efve \u4e2d\u6587 "
    )
    assert mine(text)["input_ids"] == theirs(text)["input_ids"]
    assert mine.decode(mine(text)["input_ids"][:2000]) == theirs.decode(
        theirs(text)["input_ids"][:2000]
    )
