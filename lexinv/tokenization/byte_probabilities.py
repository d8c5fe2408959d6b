"""The next byte of a language model of tokens, exactly, wherever in a token the text ends (Phan et al. 2025).

    state = start(byte_pairs, b"The Lo", log_probs)
    next_bytes(state)                       # float64[257]: of each byte, and of the text's end
    state = advance(state, b"r"[0], log_probs)

A text is the beginning of all that goes on from it, and of which the last token that is not yet whole is not known: its probability is the
sum over all valid sequences of tokens that spell it, the last of which may reach beyond it (their cover, lemma 1). Those with all but the
last token in common are a range of the sorted tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64

from lexinv.tokenization.byte_pairs import BytePairs
from lexinv.validation import choose, require

END = 256
"""The entry of `next_bytes` for the end of a text: the separator."""

Context = tuple[int, ...]
LogProbs = Callable[[Sequence[Context]], Float[np.ndarray, "contexts vocab"]]
"""The model: ln p(next token) after each of some contexts, sequences of ids, the empty one among them."""

RULES = ("exact", "healing", "naive")


@dataclass(frozen=True, eq=False)
class Branch:
    """One context and the tokens [low, high) after it that spell the `depth` bytes since.

    log_weight: ln p(context), given where the state began. masses: p(token | context) in the order of the sorted tokens. end: of the
    separator. valid: which tokens may follow.
    """

    context: Context
    log_weight: float
    masses: Float64[np.ndarray, " pieces"]
    end: float
    valid: Bool[np.ndarray, " pieces"]
    low: int
    high: int
    depth: int


@dataclass(frozen=True, eq=False)
class State:
    """What a text that has been read leaves open. masked: tokens that cannot come have no mass, and the others all of it."""

    byte_pairs: BytePairs
    branches: tuple[Branch, ...]
    masked: bool


def start(byte_pairs: BytePairs, prompt: bytes, log_probs: LogProbs, masked: bool = True, rule: str = "exact") -> State:
    """The state after a prompt, which may end anywhere; the model is called once, with all contexts that matter.

    All is conditioned on the tokens up to the last place where a piece of text ends however the prompt goes on, which are certain.

    rule: `exact` sums over the cover. `healing` takes back the last token of the prompt and draws one that begins with its bytes, `naive`
    goes on after all tokens of the prompt; both without masks, and for what follows immediately.

    Raises `InvalidConfig` for bytes that are no beginning of UTF-8, and for those that no token covers.
    """
    choose("rule", rule, RULES)
    text = _text(prompt)
    ids, whole = byte_pairs.tokenizer.encode(text).tolist(), text.encode()
    if rule != "exact":
        require(len(whole) == len(prompt), "prompt", prompt[-4:], f"whole characters for the rule {rule}")
        begins = len(ids) - (rule == "healing" and len(ids) > 0)
        at = len(b"".join(byte_pairs.tokenizer.pieces[token] for token in ids[:begins]))
        kept = [(at, tuple(ids[:begins])), *([(len(prompt), tuple(ids))] if begins < len(ids) else [])]
        return _state(byte_pairs, prompt, kept, log_probs, masked=False)
    boundary = len(text[: byte_pairs.stable(text)].encode())
    before, at = 0, 0
    while at < boundary:
        at += len(byte_pairs.tokenizer.pieces[ids[before]])
        before += 1
    found = byte_pairs.contexts(tuple(ids[:before]), prompt[at:])
    needed: set[Context] = set()
    for place in reversed(range(len(found))):
        low, high = byte_pairs.pieces.with_prefix(prompt[at + place :])
        for context in found[place]:
            if context in needed or at + place == len(prompt) or byte_pairs.allowed(context)[low:high].any():
                needed |= {context, context[:-1]}
    kept = [(at + place, context) for place, each in enumerate(found) for context in each if context in needed]
    return _state(byte_pairs, prompt, kept, log_probs, masked)


def next_bytes(state: State) -> Float64[np.ndarray, "257"]:
    """p(next byte | all before it), and p(end) in the last place."""
    found = _masses(state)
    return found / found.sum()


def log_mass(state: State) -> float:
    """ln p(the bytes since the place that `start` conditions on, and all before it was certain)."""
    return float(np.log(_masses(state).sum())) + max(branch.log_weight for branch in state.branches)


def advance(state: State, byte: int, log_probs: LogProbs) -> State:
    """The state one byte on. The model is asked for a row for each context that ends there: one, or none, where no expression looks ahead.

    Raises `InvalidConfig` for a byte that no token covers.
    """
    pairs = state.byte_pairs
    kept: list[Branch] = []
    begun: list[tuple[Context, float]] = []
    for branch in state.branches:
        first = _first_longer(pairs, branch)
        column = pairs.columns[branch.depth, first : branch.high]
        low, high = (first + int(place) for place in np.searchsorted(column, [byte, byte + 1]))
        if low == high:
            continue
        narrowed = replace(branch, low=low, high=high, depth=branch.depth + 1)
        longer = _first_longer(pairs, narrowed)
        if longer > low and branch.valid[low] and branch.masses[low] > 0:
            context = (*branch.context, int(pairs.pieces.ids[low]))
            begun.append((context, branch.log_weight + float(np.log(branch.masses[low]))))
        if branch.masses[longer:high].any():
            kept.append(narrowed)
    if begun:
        rows = log_probs([context for context, _ in begun])
        for (context, weight), row in zip(begun, rows, strict=True):
            kept.append(_branch(pairs, context, weight, row, state.masked))
    require(len(kept) > 0, "byte", byte, "one that some token covers here")
    return replace(state, branches=tuple(kept))


def byte_log_probs(byte_pairs: BytePairs, data: bytes, log_probs: LogProbs) -> Float64[np.ndarray, " bytes"]:
    """ln p(byte | all before it) of every byte of a text from its beginning. The model is called once, with all contexts.

    Raises `InvalidConfig` as `start`.
    """
    _text(data)
    contexts = [context for each in byte_pairs.contexts((), data) for context in each]
    rows = dict(zip(contexts, log_probs(contexts), strict=True))

    def known(asked: Sequence[Context]) -> Float[np.ndarray, "contexts vocab"]:
        return np.stack([rows[context] for context in asked])

    state, found = start(byte_pairs, b"", known), np.empty(len(data))
    for at, byte in enumerate(data):
        found[at] = np.log(next_bytes(state)[byte])
        state = advance(state, byte, known)
    return found


def mean_of(states: Sequence[State], weights: Sequence[float]) -> Float64[np.ndarray, "257"]:
    """The mean of the next bytes of several models, whatever their tokenizers. Raises `InvalidConfig` for weights that do not fit."""
    fits = len(states) == len(weights) > 0 and min(weights) >= 0 and abs(sum(weights) - 1) < 1e-9
    require(fits, "weights", list(weights), f"{len(states)} numbers, zero or more, that sum to one")
    return np.asarray(weights, np.float64) @ np.stack([next_bytes(state) for state in states])


def _state(
    byte_pairs: BytePairs, prompt: bytes, kept: list[tuple[int, Context]], log_probs: LogProbs, masked: bool
) -> State:
    """The state with the branches of these contexts, given by where they end; all but the first go on from another one."""
    rows = log_probs([context for _, context in kept])
    found: dict[Context, Branch] = {}
    for (at, context), row in zip(kept, rows, strict=True):
        parent = found.get(context[:-1]) if found else None
        weight = 0.0
        if parent is not None:
            with np.errstate(divide="ignore"):
                weight = parent.log_weight + float(np.log(parent.masses[byte_pairs.places[context[-1]]]))
        low, high = byte_pairs.pieces.with_prefix(prompt[at:])
        found[context] = replace(
            _branch(byte_pairs, context, weight, row, masked), low=low, high=high, depth=len(prompt) - at
        )
    state = State(byte_pairs, tuple(branch for branch in found.values() if branch.low < branch.high), masked)
    covered = len(state.branches) > 0 and bool(_masses(state).sum() > 0)
    require(covered, "prompt", prompt[-16:], "bytes that some sequence of tokens covers")
    return state


def _branch(
    byte_pairs: BytePairs, context: Context, weight: float, row: Float[np.ndarray, " vocab"], masked: bool
) -> Branch:
    size = byte_pairs.tokenizer.vocab_size
    require(len(row) == size, "log_probs", len(row), f"one for each of the {size} tokens")
    valid = byte_pairs.allowed(context)
    chances = np.exp(np.asarray(row, np.float64))
    masses, end = chances[byte_pairs.pieces.ids], float(chances[byte_pairs.tokenizer.separator])
    if masked:
        masses = np.where(valid, masses, 0.0)
        end *= bool((valid & ~byte_pairs.continues).any())  # no text ends inside a character
    total = float(masses.sum() + end) or 1.0  # nothing follows a context that no text has
    return Branch(context, weight, masses / total, end / total, valid, 0, len(masses), 0)


def _masses(state: State) -> Float64[np.ndarray, "257"]:
    """Sums over the cover by the byte that comes next, in units of the likeliest context."""
    found, highest = np.zeros(END + 1), max(branch.log_weight for branch in state.branches)
    for branch in state.branches:
        weight, low = np.exp(branch.log_weight - highest), _first_longer(state.byte_pairs, branch)
        column = state.byte_pairs.columns[branch.depth, low : branch.high]
        found[:END] += weight * np.bincount(column, branch.masses[low : branch.high], END)
        if not branch.depth:
            found[END] += weight * branch.end
    return found


def _first_longer(byte_pairs: BytePairs, branch: Branch) -> int:
    """`low`, or the place after it where that is the token that ends here: its context has a branch of its own."""
    ends = branch.depth > 0 and branch.low < branch.high and byte_pairs.lengths[branch.low] == branch.depth
    return branch.low + bool(ends)


def _text(data: bytes) -> str:
    """The whole characters that a text begins with."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        cut_off = error.reason == "unexpected end of data"
        require(cut_off, f"bytes at {error.start}", data[error.start : error.end], "UTF-8, which every text is")
        text = data[: error.start].decode("utf-8")
    return text
