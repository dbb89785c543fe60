"""Models to drive: Gemma-3 270M, any folder or hub id, or a small one of random weights."""

import os
from pathlib import Path
from typing import Any

import torch

from hicache_ext.errors import ModelError
from hicache_ext.integrations.gemma_weights import Progress, ensure_gemma3_270m
from hicache_ext.integrations.names import GEMMA, SMALL


def small_config(*, window: int = 64, num_kv_heads: int = 1, vocab_size: int = 512) -> Any:
    """A Gemma-3 text config with five sliding layers and a full one, small in every other way."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=window,
        max_position_embeddings=16384,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    )


def small_model(config: Any = None, *, seed: int = 0) -> Any:
    """A random-weight model of `small_config`; equal seeds give equal weights in every process.

    Weights are drawn larger than for training, so that attention is peaked and a wrong page shows.
    """
    from transformers import Gemma3ForCausalLM

    config = config or small_config()
    model = Gemma3ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() == 1 else 2.0 / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.requires_grad_(False)


def resolve_folder(choice: str, progress: Progress | None = None) -> str:
    """A folder or hub id that `load_model` takes, for the user's `choice`.

    "gemma3-270m" is converted from its packages on the first call; "small" stays "small".
    """
    if choice == GEMMA:
        return str(ensure_gemma3_270m(progress=progress))
    return choice


def load_model(source: str) -> Any:
    """The causal language model in `source` (folder, hub id, or "small"): float32, eval, no grad.

    Raises ModelError if it cannot be had.
    """
    if source == SMALL:
        return small_model()
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    _offline_if_local(source)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as exc:
        raise ModelError(f"model {source!r} cannot be loaded: {exc}") from exc
    return model.eval().requires_grad_(False)


def load_tokenizer(source: str) -> Any:
    """The tokenizer of `source`, or None for the small model (its token ids are bytes)."""
    if source == SMALL:
        return None
    from transformers import AutoTokenizer

    _offline_if_local(source)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as exc:
        raise ModelError(f"tokenizer of {source!r} cannot be loaded: {exc}") from exc


def _offline_if_local(source: str) -> None:
    if Path(source).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
