"""Which layers of a model attend to everything and which to a sliding window."""

from dataclasses import dataclass
from typing import Any

from hicache_ext.errors import ModelError

_FULL, _SLIDING = "full_attention", "sliding_attention"

# Any of these, set, means K and V of a token are not "heads x head_dim per layer, kept for ever or
# for a window"; a cache of such pages would be silently wrong.
_FOREIGN = (
    "kv_lora_rank",
    "num_kv_shared_layers",
    "attention_chunk_size",
    "layers_block_type",
    "attn_layer_period",
    "state_size",
    "ssm_cfg",
    "global_head_dim",
    "is_encoder_decoder",
)


@dataclass(frozen=True)
class AttentionPattern:
    """Layer indices by kind, and the shape of one token's K or V.

    window_tokens: a query at position p sees positions p - window_tokens + 1 to p; None without
    sliding layers.
    """

    full_layers: tuple[int, ...]
    sliding_layers: tuple[int, ...]
    window_tokens: int | None
    num_kv_heads: int
    head_dim: int

    @property
    def num_layers(self) -> int:
        return len(self.full_layers) + len(self.sliding_layers)

    def layers(self, pool: str) -> tuple[int, ...]:
        """The model's layers whose pages live in pool "full" or "swa"."""
        return {"full": self.full_layers, "swa": self.sliding_layers}[pool]

    @property
    def pools(self) -> tuple[str, ...]:
        return ("full", "swa") if self.sliding_layers else ("full",)


def attention_pattern(config: Any) -> AttentionPattern:
    """Read the pattern from a transformers config (of a text model, or one that has a text model).

    Raises ModelError with the values for anything but full and sliding-window attention over
    plain K and V: an unknown layer type, latent or shared K/V, recurrent states, a missing window.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    name = getattr(text, "model_type", type(text).__name__)
    foreign = {key: value for key in _FOREIGN if (value := getattr(text, key, None))}
    if foreign:
        raise ModelError(f"model_type={name}: attention pattern is not known here: {foreign}")
    num_layers = _positive(text, name, "num_hidden_layers")
    num_heads = _positive(text, name, "num_attention_heads")
    kinds = _layer_kinds(text, name, num_layers)
    window = getattr(text, "sliding_window", None) if _SLIDING in kinds else None
    if _SLIDING in kinds and (not isinstance(window, int) or window < 1):
        raise ModelError(f"model_type={name}: sliding layers with sliding_window={window}")
    if _FULL not in kinds:
        raise ModelError(f"model_type={name}: none of {num_layers} layers has full attention")
    return AttentionPattern(
        full_layers=tuple(idx for idx, kind in enumerate(kinds) if kind == _FULL),
        sliding_layers=tuple(idx for idx, kind in enumerate(kinds) if kind == _SLIDING),
        window_tokens=window,
        num_kv_heads=getattr(text, "num_key_value_heads", None) or num_heads,
        head_dim=getattr(text, "head_dim", None)
        or _positive(text, name, "hidden_size") // num_heads,
    )


def _positive(text: Any, name: str, key: str) -> int:
    value = getattr(text, key, None)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"model_type={name}: attention pattern is not known: {key}={value}")
    return value


def _layer_kinds(text: Any, name: str, num_layers: int) -> list[str]:
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        window = getattr(text, "sliding_window", None)
        if window and getattr(text, "use_sliding_window", True):
            # A window without a list of layers means every layer in some models, some in others.
            raise ModelError(
                f"model_type={name}: sliding_window={window} without layer_types: which layers?"
            )
        return [_FULL] * num_layers
    unknown = sorted(set(kinds) - {_FULL, _SLIDING})
    if unknown or len(kinds) != num_layers:
        raise ModelError(
            f"model_type={name}: layer_types not known here: {unknown}, "
            f"{len(kinds)} entries for {num_layers} layers"
        )
    return list(kinds)
