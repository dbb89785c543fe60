"""Two real ranks over gloo: equal to each other bit for bit, and to one process within noise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tp_worker

from hicache_ext.errors import ModelError
from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.models import small_config, small_model
from hicache_ext.integrations.tensor_parallel import head_shard, shard_model

HERE = Path(__file__).parent


def run_ranks(num_kv_heads, folder):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "python")])
    outs = [folder / f"rank{rank}.pt" for rank in range(2)]
    script, meet = HERE / "tp_worker.py", folder / "rendezvous"
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", str(num_kv_heads), meet, out], env=env
        )
        for rank, out in enumerate(outs)
    ]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(out) for out in outs]


@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_ranks_agree_with_each_other_and_with_one_process(num_kv_heads, tmp_path):
    model = small_model(small_config(window=tp_worker.WINDOW, num_kv_heads=num_kv_heads))
    single = tp_worker.run(model, attention_pattern(model.config), seed=5)
    first, second = run_ranks(num_kv_heads, tmp_path)
    assert torch.equal(first["logits"], second["logits"])
    assert (first["logits"] - single["logits"]).abs().max() < 1e-3
    if num_kv_heads == 1:  # one head, replicated: both ranks hold equal pages
        assert first["label"] == second["label"] == "replicated"
        for name, page in first["pages"].items():
            assert torch.equal(page, second["pages"][name])
    else:
        assert (first["label"], second["label"]) == ("0/2", "1/2")
        for name, page in single["pages"].items():
            both = torch.cat([first["pages"][name], second["pages"][name]], dim=-2)
            assert (both - page).abs().max() < 1e-3


def test_heads_of_each_rank():
    def spans(num_q, num_kv, size):
        shards = [head_shard(num_q, num_kv, rank, size) for rank in range(size)]
        return [(s.q_heads, s.kv_heads, s.label) for s in shards]

    assert spans(4, 1, 2) == [((0, 2), (0, 1), "replicated"), ((2, 4), (0, 1), "replicated")]
    assert spans(8, 4, 2) == [((0, 4), (0, 2), "0/2"), ((4, 8), (2, 4), "1/2")]
    assert [s[1:] for s in spans(8, 2, 4)] == [((0, 1), "0/2")] * 2 + [((1, 2), "1/2")] * 2
    assert spans(4, 2, 1) == [((0, 4), (0, 2), "replicated")]


def test_uneven_split_is_refused():
    with pytest.raises(ModelError, match=r"9 query and 3 key/value heads .* 2 ranks"):
        head_shard(9, 3, 0, 2)
    model = small_model()
    model.model.layers = None
    with pytest.raises(ModelError, match=r"no model\.layers"):
        shard_model(model, 0, 2)
