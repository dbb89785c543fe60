"""One process of the demo: python -m hicache_ext.cli.demo_worker STAGE PLAN [RANK].

Events go to standard output, one JSON object per line: {"progress": [what, done, total]} and at
the end {"result": {...}}. Each stage is a process of its own, so that "a fresh process" is one.
"""

import copy
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hicache_ext.cli.demo_plan import QUESTIONS, DemoPlan, document_text, encode
from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.model_pools import (
    CacheShape,
    ModelCache,
    model_name,
    model_revision,
    num_pages_for,
)
from hicache_ext.integrations.models import load_model, load_tokenizer
from hicache_ext.integrations.runner import PagedRunner, Reply
from hicache_ext.storage import SegmentStore
from hicache_ext.tier import Tier

NUM_TURNS = 5  # of restore and dd; the medians count


def send(event: dict[str, Any]) -> None:
    """One event line."""
    print(json.dumps(event), flush=True)


def progress(what: str) -> Callable[[str, int, int], None]:
    """A callback that tells how far `what` is."""
    return lambda stage, done, total: send({"progress": [f"{what}: {stage}", done, total]})


def load(plan: DemoPlan, who: str) -> Any:
    """The model, with its weights touched once: the first pass over them reads the file."""
    send({"progress": [f"{who}: loading the model", 0, 1]})
    model = load_model(plan.source)
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]), logits_to_keep=1)
    return model


def shape_of(model: Any, plan: DemoPlan, num_tokens: int, windows: int) -> CacheShape:
    """Pools for one request on `num_tokens` of document, `windows` windows of it kept."""
    pattern = attention_pattern(model.config)
    pages = num_pages_for(
        pattern,
        plan.page_size,
        num_tokens=num_tokens + 256 + plan.num_answer_tokens,
        chunk_tokens=plan.chunk_tokens,
        windows=windows,
    )
    return CacheShape(pattern, plan.page_size, pages)


def open_store(
    plan: DemoPlan, shape: CacheShape, revision: str, folder: str, shard: str = "replicated"
) -> SegmentStore:
    """The local store of one rank; opened by every process that shares it."""
    namespaces = shape.namespaces(model_name(plan.source), revision, shard)
    return SegmentStore(Path(plan.store) / folder, namespaces, shape.page_bytes())


def row(name: str, reply: Reply, reference: torch.Tensor | None) -> dict[str, Any]:
    """One line of the table."""
    hits = {tier.name: num for tier, num in reply.num_hit_tokens.items()}
    equal = None if reference is None else bool(torch.equal(reply.logits, reference))
    difference = None if reference is None else float((reply.logits - reference).abs().max())
    return {
        "name": name,
        "num_prompt_tokens": reply.num_prompt_tokens,
        "num_hit_tokens": hits,
        "restore_s": reply.restore_s,
        "prefill_s": reply.prefill_s,
        "first_token_s": reply.first_token_s,
        "decode_s": reply.decode_s,
        "read_bytes": reply.num_read_bytes,
        "copied_bytes": reply.num_copied_bytes,
        "token_ids": reply.token_ids,
        "equal": equal,
        "max_difference": difference,
    }


@torch.inference_mode()
def hot_answers(
    model: Any, plan: DemoPlan, document: list[int], questions: list[list[int]]
) -> list[torch.Tensor]:
    """transformers alone, its own cache kept in memory, the same chunks: what must come out."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for begin in range(0, len(document), plan.chunk_tokens):
        part = document[begin : begin + plan.chunk_tokens]
        model(torch.tensor([part]), past_key_values=cache, logits_to_keep=1)
        progress("reference, cache in memory")("prefill", begin + len(part), len(document))
    answers = []
    for idx, question in enumerate(questions):
        own = copy.deepcopy(cache)
        ids, rows = question, []
        for _ in range(plan.num_answer_tokens):
            output = model(torch.tensor([ids]), past_key_values=own, logits_to_keep=1)
            rows.append(output.logits[0, -1])
            ids = [int(rows[-1].argmax())]
        progress("reference, cache in memory")("answers", idx + 1, len(questions))
        answers.append(torch.stack(rows))
    return answers


def page_digests(run: PagedRunner, tokens: list[int]) -> tuple[dict[str, list[str]], float, int]:
    """SHA-256 of each restored device page of `tokens`; seconds and bytes of the restore."""
    import hashlib

    restored = run.restore(tokens)
    digests = {}
    for name, page_ids in restored.match.pages.items():
        view = run.pages.device[name].kv_view(run.pages.shape.dtype)
        pages = (view[:, :, i].contiguous().numpy().tobytes() for i in page_ids if i >= 0)
        digests[name] = [hashlib.sha256(page).hexdigest() for page in pages]
    run.pages.cache.release(restored.match)
    return digests, restored.seconds, restored.prefetch.num_read_bytes if restored.prefetch else 0


def stage_first(plan: DemoPlan) -> dict[str, Any]:
    """Cold, then from L1, then from L2; leaves the pages in the store and the reference on disk."""
    begin = time.perf_counter()
    model, tokenizer = load(plan, "first process"), load_tokenizer(plan.source)
    load_s = time.perf_counter() - begin
    document = encode(tokenizer, document_text(), is_start=True)[: plan.num_tokens]
    questions = [encode(tokenizer, text, is_start=False) for text in QUESTIONS]
    (plan.folder / "tokens.json").write_text(json.dumps([document, *questions]))
    reference = hot_answers(model, plan, document, questions)
    torch.save(reference[0], plan.folder / "reference.pt")

    shape = shape_of(model, plan, len(document), windows=1)
    store = open_store(plan, shape, model_revision(model), "rank0")
    run = PagedRunner(model, ModelCache.open(shape, store=store), plan.chunk_tokens)
    rows, cache, shared = [], run.pages.cache, [len(document)]
    with run.pages:
        for idx, question in enumerate(questions):
            name = "cold" if idx == 0 else f"L1, question {idx + 1}"
            run.progress = progress(name)
            reply = run.answer(document + question, plan.num_answer_tokens, shared=shared)
            rows.append(row(name, reply, reference[idx]))
        cache.drain()
        digests, _, _ = page_digests(run, document + questions[0])
        cache.flush(Tier.DEVICE)
        run.progress = progress("L2, after L1 was thrown away")
        reply = run.answer(document + questions[0], plan.num_answer_tokens, shared=shared)
        rows.append(row("L2", reply, reference[0]))
        same, _, _ = page_digests(run, document + questions[0])
        cache.drain()
        cache.check_integrity()
    (plan.folder / "digests.json").write_text(json.dumps(digests))
    texts = [tokenizer.decode(r["token_ids"]) for r in rows[:3]] if tokenizer else []
    return {
        "rows": rows,
        "questions": [text.strip().splitlines()[0] for text in QUESTIONS],
        "texts": texts,
        "load_s": load_s,
        "pages_equal": {"L2": same == digests},
    }


def stage_again(plan: DemoPlan) -> dict[str, Any]:
    """A fresh process: nothing but the store's files."""
    from hicache_ext.cli.demo_disk import ColdFiles

    begin = time.perf_counter()
    model = load(plan, "fresh process")
    load_s = time.perf_counter() - begin
    document, question, *_ = json.loads((plan.folder / "tokens.json").read_text())
    reference = torch.load(plan.folder / "reference.pt")
    digests = json.loads((plan.folder / "digests.json").read_text())
    shape = shape_of(model, plan, len(document), windows=1)
    store = open_store(plan, shape, model_revision(model), "rank0")
    run = PagedRunner(model, ModelCache.open(shape, store=store), plan.chunk_tokens)
    files = ColdFiles(Path(plan.store) / "rank0")
    prompt, same, times = document + question, True, []
    with run.pages:
        files.drop()
        run.progress = progress("L3, in a fresh process")
        reply = run.answer(prompt, plan.num_answer_tokens)
        for turn in range(NUM_TURNS):
            progress("restore against dd")("turn", turn, NUM_TURNS)
            run.pages.cache.drain()
            run.pages.cache.flush()
            files.drop()
            found, restore_s, num_bytes = page_digests(run, prompt)
            same = same and found == digests
            times.append({"restore_s": restore_s, "dd_s": files.dd_s(num_bytes)})
        run.pages.cache.drain()
        run.pages.cache.check_integrity()
    return {
        "rows": [row("L3, new process", reply, reference)],
        "load_s": load_s,
        "pages_equal": {"L3": same},
        "restore_against_dd": times,
    }


def main() -> None:
    """Run one stage and send its result."""
    stage, plan = sys.argv[1], DemoPlan.load(Path(sys.argv[2]))
    torch.set_num_threads(plan.num_threads)
    if stage == "rank":
        from hicache_ext.cli.demo_ranks import stage_rank

        result = stage_rank(plan, int(sys.argv[3]))
    else:
        result = {"first": stage_first, "again": stage_again}[stage](plan)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    send({"result": {**result, "peak_bytes": peak, "cpu_s": time.process_time()}})


if __name__ == "__main__":
    main()
