"""Gemma's tokenizer as a `tokenizer.json`, rebuilt from the vocabulary that a GGUF file carries.

The file lists pieces but no merges. A piece of a byte-pair vocabulary is every merge of two
pieces that spell it, and Gemma's merge order is the order of the pieces; so the merges are all
two-piece splits, by piece id and then longest left part first. transformers derives the same list
in 31 CPU seconds (and the ids it gives are the test); this takes about three.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CONTROL, _USER_DEFINED = 3, 4  # token types in GGUF
_SPACE = "\u2581"


def write_tokenizer(folder: Path, metadata: dict[str, Any]) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder` from GGUF `metadata`."""
    pieces = [_respell(piece) for piece in metadata["tokenizer.ggml.tokens"]]
    kinds = metadata["tokenizer.ggml.token_type"]
    bos_id = int(metadata["tokenizer.ggml.bos_token_id"])
    names = {
        f"{role}_token": pieces[int(metadata[f"tokenizer.ggml.{key}_token_id"])]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(pieces, kinds),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": _prepend_bos(names["bos_token"], bos_id),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": names["unk_token"],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: idx for idx, piece in enumerate(pieces)},
            "merges": derive_merges(pieces),
        },
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {"tokenizer_class": "GemmaTokenizer", "mask_token": "<mask>", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def derive_merges(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, by piece id, longest left part first."""
    vocab = set(pieces)
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        for cut in range(len(piece) - 1, 0, -1):
            left = piece[:cut]
            if left in vocab and (right := piece[cut:]) in vocab:
                merges.append((left, right))
    return merges


def _respell(piece: str) -> str:
    # Runs of spaces are stored as spaces, while the normalizer looks them up as the space mark.
    return _SPACE * len(piece) if " " in piece and not piece.strip() else piece


def _added_tokens(pieces: Sequence[str], kinds: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": idx,
            "content": piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL or piece in ("<unk>", "<mask>"),
        }
        for idx, (piece, kind) in enumerate(zip(pieces, kinds, strict=True))
        # Runs of the space mark stay out: in a text they come from the normalizer, never literally.
        if kind == _CONTROL
        or (kind == _USER_DEFINED and _SPACE not in piece)
        or piece in ("<unk>", "<mask>")
    ]


def _prepend_bos(bos: str, bos_id: int) -> dict[str, Any]:
    def bos_item(type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": bos, "type_id": type_id}}

    def sequence(name: str, type_id: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [bos_item(0), sequence("A", 0)],
        "pair": [bos_item(0), sequence("A", 0), bos_item(1), sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
