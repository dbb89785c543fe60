"""Ask questions about a text; run it twice: the second run finds the text's KV pages on disk.

python examples/ask_document.py --question "What is a context manager?" [--text FILE]
"""

import argparse
from pathlib import Path

from hicache_ext.cli.demo_plan import document_text, encode
from hicache_ext.integrations.attention import attention_pattern
from hicache_ext.integrations.model_pools import (
    CacheShape,
    ModelCache,
    model_name,
    model_revision,
    num_pages_for,
)
from hicache_ext.integrations.models import load_model, load_tokenizer, resolve_folder
from hicache_ext.integrations.names import GEMMA
from hicache_ext.integrations.runner import PagedRunner
from hicache_ext.storage import SegmentStore
from hicache_ext.tier import Tier

PAGE_SIZE, CHUNK = 16, 512


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=GEMMA, help="a folder, a hub id, gemma3-270m or small")
    parser.add_argument("--text", type=Path, help="a text file; default: Python's reference")
    parser.add_argument("--question", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=2048, help="of the text that are used")
    parser.add_argument("--store", type=Path, default=Path(".cache/ask_document"))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    source = resolve_folder(args.model)
    model, tokenizer = load_model(source), load_tokenizer(source)
    text = args.text.read_text() if args.text else document_text()
    # Whole chunks: then a restored run does the same arithmetic as a cold one, bit for bit.
    document = encode(tokenizer, text, is_start=True)[: args.tokens]
    document = document[: max(len(document) // CHUNK, 1) * CHUNK]

    pattern = attention_pattern(model.config)
    pages = num_pages_for(
        pattern, PAGE_SIZE, num_tokens=len(document) + 1024, chunk_tokens=CHUNK, windows=1
    )
    shape = CacheShape(pattern, PAGE_SIZE, pages)
    namespaces = shape.namespaces(model_name(source), model_revision(model), "replicated")
    args.store.mkdir(parents=True, exist_ok=True)
    store = SegmentStore(args.store, namespaces, shape.page_bytes())
    runner = PagedRunner(model, ModelCache.open(shape, store=store), CHUNK)
    with runner.pages:
        for question in args.question or ["What is a context manager?", "What is a generator?"]:
            prompt = encode(tokenizer, f"\n\nQuestion: {question}\nAnswer:", is_start=False)
            reply = runner.answer(document + prompt, 32, shared=[len(document) // 16 * 16])
            hits = ", ".join(f"{reply.num_hit_tokens[t]} from {t.name}" for t in Tier)
            print(f"{question}\n  first token {reply.first_token_s:.2f} s; tokens cached: {hits}")
            answer = (
                str(reply.token_ids) if tokenizer is None else tokenizer.decode(reply.token_ids)
            )
            print(f"  {' '.join(answer.split())}")
        runner.pages.cache.drain()  # what is still on its way to the store


if __name__ == "__main__":
    main()
