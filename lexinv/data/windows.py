"""From documents to batches: a stream of tokens, windows over it, and shuffled batches with random access."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt

from lexinv.data.cache import prepared
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import Tokenizer, folded_share
from lexinv.validation import choose, require

if TYPE_CHECKING:
    import grain

Packing = Literal["stream", "documents"]
PADDING = -1  # as a target it is not counted


class TokenStream(NamedTuple):
    """All documents of a split one after another, each followed by the separator.

    tokens: unsigned integers [tokens], mapped from disk. offsets: int64[documents + 1]; document d is
    tokens[offsets[d] : offsets[d + 1]], its separator included. folded: the share of the text's characters that the tokenizer does not
    tell apart from others.
    """

    tokens: UInt[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " boundaries"]
    folded: float = 0.0


def token_stream(corpus: Corpus, split: str, tokenizer: Tokenizer, cache: Path | None = None) -> TokenStream:
    """Encode a split in the order of its documents; done once per content of corpus and tokenizer, then mapped from disk.

    Says on stderr what share of the characters is folded, if any. Raises `InvalidConfig` where it is above the tokenizer's `most_folded`.
    """
    choose("split", split, corpus.splits)
    require(len(corpus.splits[split]) > 0, "split", split, "a split with documents")
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1).newbyteorder("<")

    def build(folder: Path) -> None:
        share = folded_share(tokenizer, corpus.splits[split], f"{corpus.name} ({split})")
        ends = [0]
        with (folder / "tokens.bin").open("wb") as file:
            for text in corpus.splits[split]:
                document = np.append(tokenizer.encode(text), tokenizer.separator).astype(dtype)
                file.write(document.tobytes())
                ends.append(ends[-1] + len(document))
        np.save(folder / "offsets.npy", np.array(ends, np.int64))
        (folder / "folded.json").write_text(json.dumps({"share": share}))

    name = f"{corpus.fingerprint}-{split}-{tokenizer.name.replace(':', '-')}-{tokenizer.fingerprint}"
    folder = prepared(cache, "tokens", name, build)
    share = json.loads((folder / "folded.json").read_text())["share"]
    if share:
        from rich.console import Console

        said = f"{tokenizer.name} folds {100 * share:.1f} % of the characters of {corpus.name} ({split})"
        Console(stderr=True).print(said, highlight=False, markup=False)
    return TokenStream(np.memmap(folder / "tokens.bin", dtype, mode="r"), np.load(folder / "offsets.npy"), share)


@dataclass(frozen=True, eq=False)
class Windows:
    """Random access to windows: window i is tokens[starts[i] : stops[i]], padded with -1 to `length`."""

    tokens: UInt[np.ndarray, " tokens"]
    starts: Int64[np.ndarray, " windows"]
    stops: Int64[np.ndarray, " windows"]
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"tokens": int32[length]}, as Grain wants it."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {"tokens": self.gather(np.array([index]))[0]}

    def gather(self, indices: Int[np.ndarray, " chosen"]) -> Int32[np.ndarray, "chosen length"]:
        """Several windows at once."""
        positions = self.starts[indices][:, None] + np.arange(self.length)[None, :]
        inside = positions < self.stops[indices][:, None]
        tokens = self.tokens[np.minimum(positions, len(self.tokens) - 1)].astype(np.int32)
        return np.where(inside, tokens, np.int32(PADDING))


def window_source(stream: TokenStream, length: int, packing: Packing = "stream") -> Windows:
    """Cut a stream into disjoint windows of `length` tokens that together hold every token exactly once.

    packing "stream": windows run on over the ends of documents; only the very last is padded. "documents": no window
    holds tokens of two documents; the last of each document is padded. Padding is -1.
    Raises `InvalidConfig` if `length` is not positive or longer than the whole stream.
    """
    choose("packing", packing, ("stream", "documents"))
    total = len(stream.tokens)
    require(1 <= length <= total, "context", length, f"from 1 to the length of the corpus, {total} tokens")
    offsets = stream.offsets if packing == "documents" else np.array([0, total], np.int64)
    counts = -(-np.diff(offsets) // length)
    first = np.repeat(np.cumsum(counts) - counts, counts)  # number of the first window of each window's document
    starts = np.repeat(offsets[:-1], counts) + (np.arange(len(first)) - first) * length
    return Windows(stream.tokens, starts, np.minimum(starts + length, np.repeat(offsets[1:], counts)), length)


def array_windows(tokens: UInt[np.ndarray, " tokens"], length: int) -> Windows:
    """`window_source` of tokens in memory, as one document."""
    return window_source(TokenStream(tokens, np.array([0, len(tokens)])), length)


def batches(
    source: Windows,
    batch_size: int,
    seed: int,
    steps_per_dispatch: int = 1,
    held: Int64[np.ndarray, " rows"] | None = None,
) -> "grain.MapDataset[dict[str, np.ndarray]]":
    """Endless batches, shuffled anew in every epoch; element i is the input of dispatch i, whichever came before it.

    Elements: tokens int32[K, B, T], row int32[K, B]: each sequence's position in its batch, from which its own random
    key is folded. Every window occurs once per epoch; a batch may hold the end of one epoch and the start of the next.
    With `held`, the rows of a batch that this process holds, only those are read: [K, len(held), ...]. The batch that the
    processes hold together does not depend on how many they are.
    """
    import grain

    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    require(steps_per_dispatch >= 1, "steps_per_dispatch", steps_per_dispatch, "at least 1")
    held = np.arange(batch_size) if held is None else held
    rows = np.broadcast_to(held.astype(np.int32), (steps_per_dispatch, len(held)))

    def dispatch(indices: np.ndarray) -> dict[str, np.ndarray]:
        chosen = indices.reshape(steps_per_dispatch, batch_size)[:, held].ravel()
        return {"tokens": source.gather(chosen).reshape(*rows.shape, source.length), "row": rows.copy()}

    # Grain shuffles epoch e by seed + e: without hashing, epoch 1 of seed 0 would be epoch 0 of seed 1.
    hashed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    # The numbers of windows are shuffled and batched, so that all windows of a dispatch are gathered in one go.
    indices = grain.MapDataset.range(len(source)).shuffle(seed=hashed).repeat()
    return indices.batch(batch_size * steps_per_dispatch).map(dispatch)


def evaluation_windows(source: Windows, count: int, seed: int) -> Int32[np.ndarray, "windows length"]:
    """`count` different windows without padding. With the same seed a larger choice begins with the smaller one."""
    complete = np.flatnonzero(source.stops - source.starts == source.length)
    require(1 <= count <= len(complete), "count", count, f"from 1 to the {len(complete)} windows without padding")
    return source.gather(np.random.default_rng(seed).permutation(complete)[:count])
