"""Tensor parallelism by hand: each rank keeps its query heads and its slice of the MLP.

Split are the rows of q, k, v, gate and up and the columns of o and down; the partial sums after o
and down are added over the process group. Where there are fewer K/V heads than ranks, ranks share
a head and hold equal pages. It exists to have real ranks for the cache to agree between, not for
speed: transformers' own plan does not split one K/V head.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hicache_ext.errors import ModelError
from hicache_ext.integrations.attention import AttentionPattern


@dataclass(frozen=True)
class HeadShard:
    """The half-open head ranges of one rank; `label` is equal where the K/V pages are."""

    q_heads: tuple[int, int]
    kv_heads: tuple[int, int]
    label: str


def head_shard(num_q_heads: int, num_kv_heads: int, rank: int, size: int) -> HeadShard:
    """Which heads `rank` of `size` has. ModelError if they do not divide evenly."""
    even = num_kv_heads % size == 0 or size % num_kv_heads == 0
    if num_q_heads % size or num_q_heads % num_kv_heads or not even:
        raise ModelError(
            f"{num_q_heads} query and {num_kv_heads} key/value heads do not split over {size} ranks"
        )
    num_q = num_q_heads // size
    num_kv = max(num_kv_heads // size, 1)
    kv_begin = rank * num_q * num_kv_heads // num_q_heads
    num_shards = num_kv_heads // num_kv
    label = "replicated" if num_shards == 1 else f"{kv_begin // num_kv}/{num_shards}"
    return HeadShard((rank * num_q, (rank + 1) * num_q), (kv_begin, kv_begin + num_kv), label)


def shard_pattern(pattern: AttentionPattern, shard: HeadShard) -> AttentionPattern:
    """The pattern of one rank's pools: only its K/V heads."""
    return replace(pattern, num_kv_heads=shard.kv_heads[1] - shard.kv_heads[0])


class SummedLinear(nn.Module):
    """A linear layer of which this rank has a slice of the inputs; the outputs are summed."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.group = group

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """This rank's share of the product, summed over the ranks; [..., in] -> [..., out]."""
        partial = nn.functional.linear(states, self.weight)
        dist.all_reduce(partial, group=self.group)
        return partial if self.bias is None else partial + self.bias


def shard_model(model: Any, rank: int, size: int, group: Any = None) -> HeadShard:
    """Cut `model` (a Llama- or Gemma-like decoder) down to one rank's share, in place.

    group: a torch.distributed process group (None = the default one) of `size` ranks, of which
    this is `rank`; every forward is then a collective. Raises ModelError if the heads or the MLP
    do not divide, or the layers are built differently.
    """
    text = model.config.get_text_config()
    shard = head_shard(text.num_attention_heads, text.num_key_value_heads, rank, size)
    if text.intermediate_size % size:
        raise ModelError(f"intermediate_size={text.intermediate_size} does not split over {size}")
    ffn = text.intermediate_size // size
    mlp_rows = slice(rank * ffn, (rank + 1) * ffn)
    for layer in _decoder_layers(model):
        attention, mlp = layer.self_attn, layer.mlp
        q_rows = _rows(shard.q_heads, attention.head_dim)
        kv_rows = _rows(shard.kv_heads, attention.head_dim)
        _keep_rows(attention.q_proj, q_rows)
        _keep_rows(attention.k_proj, kv_rows)
        _keep_rows(attention.v_proj, kv_rows)
        attention.o_proj = _keep_columns(attention.o_proj, q_rows, group)
        num_q, num_kv = (end - begin for begin, end in (shard.q_heads, shard.kv_heads))
        attention.num_key_value_groups = num_q // num_kv
        _keep_rows(mlp.gate_proj, mlp_rows)
        _keep_rows(mlp.up_proj, mlp_rows)
        mlp.down_proj = _keep_columns(mlp.down_proj, mlp_rows, group)
    return shard


def _decoder_layers(model: Any) -> Any:
    layers = getattr(getattr(model, "model", None), "layers", None)
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    known = layers is not None and all(
        isinstance(getattr(getattr(layer, "self_attn", None), name, None), nn.Linear)
        for layer in layers
        for name in names
    )
    if not known:
        raise ModelError(f"{type(model).__name__}: no model.layers with {names} to split")
    return layers


def _rows(heads: tuple[int, int], head_dim: int) -> slice:
    return slice(heads[0] * head_dim, heads[1] * head_dim)


def _keep_rows(linear: nn.Linear, rows: slice) -> None:
    linear.weight = nn.Parameter(linear.weight[rows].clone(), requires_grad=False)
    linear.out_features = linear.weight.shape[0]
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[rows].clone(), requires_grad=False)


def _keep_columns(linear: nn.Linear, columns: slice, group: Any) -> SummedLinear:
    return SummedLinear(linear.weight[:, columns].clone(), linear.bias, group)
