"""From text to tokens: longest match, fewest tokens, and what the `tokenizers` library does. Merges are applied in `lexinv.data.bpe`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

Encode = Callable[[str], Int32[np.ndarray, " tokens"]]


class Trie:
    """The strings of a vocabulary by their characters. Node 0 is the empty string.

    children: for each node, the node of each character that may follow. token: the id that ends at each node, or -1.
    """

    def __init__(self, vocabulary: Sequence[str]):
        self.children: list[dict[str, int]] = [{}]
        self.token = [-1]
        for token, string in enumerate(vocabulary):
            node = 0
            for character in string:
                following = self.children[node].get(character)
                if following is None:
                    following = self.children[node][character] = len(self.children)
                    self.children.append({})
                    self.token.append(-1)
                node = following
            self.token[node] = token


def greedy_encoder(vocabulary: Sequence[str]) -> Encode:
    """From left to right, always the longest token that matches. The vocabulary must hold every character by itself."""
    trie = Trie(vocabulary)
    children, token_at = trie.children, trie.token

    def encode(text: str) -> np.ndarray:
        tokens, position = [], 0
        while position < len(text):
            node, token, end = 0, -1, position
            for reached in range(position, len(text)):
                node = children[node].get(text[reached], -1)
                if node < 0:
                    break
                if token_at[node] >= 0:
                    token, end = token_at[node], reached + 1
            tokens.append(token)
            position = end
        return np.array(tokens, np.int32)

    return encode


def minimum_length_encoder(vocabulary: Sequence[str]) -> Encode:
    """The fewest tokens, by dynamic programming from the end; of several such encodings, the one whose first token is longest, and so on.

    Time and memory are linear in the text times the longest match.
    """
    trie = Trie(vocabulary)
    children, token_at = trie.children, trie.token

    def encode(text: str) -> np.ndarray:
        fewest = [0] * (len(text) + 1)  # tokens of text[position:]
        choice, ends = [0] * len(text), [0] * len(text)
        for position in range(len(text) - 1, -1, -1):
            node, best = 0, len(text) + 1
            for reached in range(position, len(text)):
                node = children[node].get(text[reached], -1)
                if node < 0:
                    break
                if token_at[node] >= 0 and fewest[reached + 1] < best:
                    best, choice[position], ends[position] = fewest[reached + 1], token_at[node], reached + 1
                elif token_at[node] >= 0 and fewest[reached + 1] == best:  # longer, and no more tokens
                    choice[position], ends[position] = token_at[node], reached + 1
            fewest[position] = best + 1
        tokens, position = [], 0
        while position < len(text):
            tokens.append(choice[position])
            position = ends[position]
        return np.array(tokens, np.int32)

    return encode


class LibraryEncoder:
    """Encodes with a tokenizer of the `tokenizers` library."""

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, text: str) -> np.ndarray:
        return np.array(self.model.encode(text, add_special_tokens=False).ids, np.int32)
