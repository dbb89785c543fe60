"""What the demo does, as one JSON file that its processes read."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hicache_ext.errors import ModelError
from hicache_ext.integrations.names import SMALL

QUESTIONS = (
    "\n\nQuestion: What does the with statement do?\nAnswer:",
    "\n\nQuestion: When is a name bound?\nAnswer:",
    "\n\nQuestion: What is a generator?\nAnswer:",
)


@dataclass(frozen=True)
class DemoPlan:
    """Sizes in tokens. `source` is the folder or hub id once the weights are there."""

    model: str  # as the user said
    source: str
    out: str
    page_size: int
    chunk_tokens: int
    num_tokens: int  # of the shared document, a multiple of chunk_tokens
    num_rank_tokens: int  # of the document of the two ranks, a multiple of 2 * chunk_tokens
    num_answer_tokens: int
    num_threads: int
    store: str = ""
    fallback: str | None = None  # why the small model runs instead of the one asked for

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def save(self) -> Path:
        """Write it where `load` finds it."""
        path = self.folder / "plan.json"
        path.write_text(json.dumps(asdict(self), indent=2))
        return path

    @classmethod
    def load(cls, path: Path) -> "DemoPlan":
        return cls(**json.loads(path.read_text()))


def make_plan(
    model: str,
    out: Path,
    *,
    num_tokens: int | None = None,
    num_answer_tokens: int | None = None,
    num_threads: int | None = None,
) -> DemoPlan:
    """The sizes for `model`, some of them the user's. ModelError if they are not whole chunks."""
    is_small = model == SMALL
    chunk = 64 if is_small else 512
    plan = DemoPlan(
        model=model,
        source=model,
        out=str(out.absolute()),  # the stages' processes must not care where they are started
        page_size=16,
        chunk_tokens=chunk,
        num_tokens=num_tokens or 8 * chunk,
        num_rank_tokens=4 * chunk,
        num_answer_tokens=num_answer_tokens or (8 if is_small else 32),
        num_threads=num_threads or len(os.sched_getaffinity(0)),
    )
    if plan.num_tokens % chunk or plan.num_tokens < chunk:
        raise ModelError(f"tokens={plan.num_tokens} is no multiple of the chunk of {chunk} tokens")
    return replace(plan, num_rank_tokens=min(plan.num_rank_tokens, plan.num_tokens))


def fall_back(plan: DemoPlan, reason: str) -> DemoPlan:
    """The same demo with the small random-weight model."""
    small = make_plan(SMALL, Path(plan.out), num_threads=plan.num_threads)
    return replace(small, model=plan.model, fallback=reason)


def encode(tokenizer: Any, text: str, *, is_start: bool) -> list[int]:
    """Token ids of `text`; bytes for a model without a tokenizer."""
    if tokenizer is None:
        return list(text.encode())
    return list(tokenizer(text, add_special_tokens=is_start)["input_ids"])


def document_text() -> str:
    """A long free text that every Python has: the language reference's topics."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
