"""Prompts for the tree's fuzz. Uniform ones would share nothing: each generator aims at one kind of
split.
"""

import struct
from itertools import chain, pairwise


def page_keys(tokens, page_size, has_pairs=False):
    """The whole pages of `tokens` as bytes, the model's keys. `has_pairs`: a position is a token
    and the next one.
    """
    words = [*chain.from_iterable(pairwise(tokens))] if has_pairs else tokens
    packed = struct.pack(f"<{len(words)}I", *words)
    page_bytes = page_size * (8 if has_pairs else 4)
    whole = len(packed) // page_bytes * page_bytes
    return [packed[i : i + page_bytes] for i in range(0, whole, page_bytes)]


class SharedPrefixes:
    """A few system prompts, each followed by something of its own."""

    def __init__(self, rng, page_size):
        self.rng, self.page_size = rng, page_size
        self.prompts = [self.fresh(rng.randint(1, 5 * page_size)) for _ in range(3)]

    def fresh(self, num_tokens):
        return [self.rng.randrange(1 << 32) for _ in range(num_tokens)]

    def next(self):
        own = self.rng.randrange(4)
        tail = [own] * self.rng.randint(0, 3 * self.page_size)
        return self.rng.choice(self.prompts) + tail


class DeepChats:
    """Conversations that grow turn by turn, and are now and then answered anew from an earlier
    turn.
    """

    def __init__(self, rng, page_size):
        self.rng, self.page_size = rng, page_size
        self.chats = [[i] * page_size for i in range(3)]

    def next(self):
        i = self.rng.randrange(len(self.chats))
        chat = self.chats[i]
        if self.rng.random() < 0.2 or len(chat) > 12 * self.page_size:
            chat = chat[: self.rng.randint(1, len(chat))]
        turn = self.rng.randint(1, 2 * self.page_size + 1)
        self.chats[i] = chat + [self.rng.randrange(3) for _ in range(turn)]
        return list(self.chats[i])


class TinyAlphabet:
    """Two tokens: everything shares a prefix with something."""

    def __init__(self, rng, page_size):
        self.rng, self.page_size = rng, page_size

    def next(self):
        tokens = []
        for _ in range(self.rng.randint(0, 8)):
            page = [0] * self.page_size
            page[-1] = self.rng.randrange(2)
            tokens += page
        return tokens


class PageBorders:
    """One long prompt, cut or changed next to a page border."""

    def __init__(self, rng, page_size):
        self.rng, self.page_size = rng, page_size
        self.long = [rng.randrange(5) for _ in range(9 * page_size)]

    def next(self):
        border = self.rng.randint(0, 9) * self.page_size + self.rng.choice((-1, 0, 1))
        border = min(max(border, 0), len(self.long))
        tokens = self.long[:border]
        if tokens and self.rng.random() < 0.5:
            tokens[-1] += 5
            tokens += self.long[border:]
        return tokens


GENERATORS = (SharedPrefixes, DeepChats, TinyAlphabet, PageBorders)
