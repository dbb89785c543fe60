"""Chats as a prefix cache sees them: shared system prompts, several turns, many at a time.

A conversation ends at 1k to 32k tokens (log-uniform) and begins with one of the system prompts, of
512 to 8k tokens, at most half of it; its turns cut the rest at random. A request matches the prompt
of one turn and inserts the prompt with its answer. A bounded number of conversations is active at
once, and a random one of them takes its next turn: there is locality, and there are many others in
between. The same seed gives the same requests everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

TOKEN_BYTES = 4
VOCABULARY = 128_000
SYSTEM_TOKENS = (512, 8192)
CHAT_TOKENS = (1024, 32_768)

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """One turn of a conversation; the answer is what lies between the two lengths."""

    chat_idx: int
    num_prompt_tokens: int
    num_tokens: int


class ChatWorkload:
    """`num_systems` * `chats_per_system` conversations of `num_turns` requests each."""

    def __init__(
        self,
        num_systems: int = 64,
        chats_per_system: int = 20,
        num_turns: int = 8,
        num_active: int = 128,
        seed: int = 1,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._num_turns = num_turns
        lengths = np.exp(self._rng.uniform(*np.log(SYSTEM_TOKENS), num_systems)).astype(int)
        systems = [self._tokens(length) for length in lengths]
        order = self._rng.permutation(np.repeat(np.arange(num_systems), chats_per_system))
        self.chats: list[bytes] = []
        """The final tokens of each conversation, u32-LE."""
        self._turns: list[list[tuple[int, int]]] = []
        for system_idx in order:
            self._add_chat(systems[system_idx])
        self.requests = self._interleaved(num_active)
        self.num_prompt_tokens = sum(request.num_prompt_tokens for request in self.requests)

    def key(self, chat_idx: int, num_tokens: int) -> bytes:
        """The first tokens of a conversation, as the tree takes them."""
        return self.chats[chat_idx][: num_tokens * TOKEN_BYTES]

    def _tokens(self, count: int) -> Tokens:
        return self._rng.integers(0, VOCABULARY, count, dtype=np.int64)

    def _add_chat(self, system: Tokens) -> None:
        total = int(np.exp(self._rng.uniform(*np.log(CHAT_TOKENS))))
        start = system[: max(256, min(len(system), total // 2))]
        num_own = max(total - len(start), 4 * self._num_turns)
        inner = self._rng.choice(np.arange(1, num_own), 2 * self._num_turns - 1, replace=False)
        borders = [len(start) + int(cut) for cut in [*sorted(inner), num_own]]
        tokens = np.concatenate([start, self._tokens(num_own)])
        self.chats.append(tokens.astype("<u4").tobytes())
        self._turns.append(list(zip(borders[::2], borders[1::2], strict=True)))

    def _interleaved(self, num_active: int) -> list[Request]:
        """All turns; those of one conversation in order."""
        requests: list[Request] = []
        num_taken = [0] * len(self.chats)
        waiting = iter(range(len(self.chats)))
        active = list(islice(waiting, num_active))
        while active:
            place = int(self._rng.integers(len(active)))
            chat_idx = active[place]
            requests.append(Request(chat_idx, *self._turns[chat_idx][num_taken[chat_idx]]))
            num_taken[chat_idx] += 1
            if num_taken[chat_idx] == self._num_turns:
                active[place] = active[-1]
                active.pop()
                active.extend(islice(waiting, 1))
        return requests
