"""How well a language model does a task: exact match of the answer, multiple choice by log-likelihood, and what guessing would get.

Srivastava et al. 2022 (arXiv 2206.04615): `exact_str_match` and `multiple_choice_grade`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lexinv.lexinvariance.tasks import Task
from lexinv.validation import require

Logits = Callable[[dict[str, np.ndarray]], Array | np.ndarray]
"""`logits(batch)[b, t]` of the token at t given those before it, for batch {"tokens"[B, T], "row"[B]} as in `lexinv.nn.language_model`."""

Encode = Callable[[str], Int[np.ndarray, " tokens"]]

LENGTHS = 32
"""Sequences are padded to multiples of it: a few static shapes."""


class Scores(NamedTuple):
    """By example. Exact match: the answer is what greedy decoding begins with, since with the true symbols before it each is the argmax."""

    whole: Float[np.ndarray, " examples"]
    """Exact match among the whole vocabulary."""
    prompt: Float[np.ndarray, " examples"]
    """Exact match among the symbols of the prompt, marks left out."""
    grade: Float[np.ndarray, " graded"]
    """Of the examples with choices: the score of the most probable choice, the mean of several equally probable ones."""


class Answer(NamedTuple):
    """A prompt with one possible answer, which begins at token `start`."""

    text: str
    tokens: Int[np.ndarray, " tokens"]
    start: int


class Judged(NamedTuple):
    """Answers by a model: is each the argmax throughout, among the vocabulary and among the prompt's symbols; log-likelihood in nats."""

    whole: Bool[Array, " answers"]
    prompt: Bool[Array, " answers"]
    log_likelihood: Float[Array, " answers"]


def encode_answers(
    task: Task, prompts: Sequence[str], encode: Encode, longest: int | None = None
) -> list[list[Answer]]:
    """Every accepted answer and every choice of each example behind its prompt (see `lexinv.lexinvariance.tasks.prompts`).

    Raises `InvalidConfig` for an answer that the tokenizer keeps nothing of, and for a prompt with answer of more than `longest` tokens.
    """
    answers = []
    for index, (example, prompt) in enumerate(zip(task.examples, prompts, strict=True)):
        field, before, possible = f"{task.name}: examples[{index}]", encode(prompt), []
        for text in dict.fromkeys((*example.targets, *(choice for choice, _ in example.choices))):
            tokens = encode(prompt + text)
            shared = tokens[: len(before)] == before[: len(tokens)]
            start = len(shared) if shared.all() else int(shared.argmin())  # a tokenizer may merge across the seam
            require(start < len(tokens), field, text, "an answer of which the tokenizer keeps something")
            fits = longest is None or len(tokens) <= longest
            require(fits, field, f"{len(tokens)} tokens", f"at most {longest} with the prompt")
            possible.append(Answer(text, tokens, start))
        answers.append(possible)
    return answers


def score_task(
    logits: Logits,
    task: Task,
    answers: list[list[Answer]],
    *,
    marks: Collection[int] = (),
    batch_size: int = 32,
) -> Scores:
    """Score a model on every example of the task, of which `encode_answers` gives the answers. Logits are judged where they are computed.

    Sequences are padded behind to a multiple of `LENGTHS`. `row` is the example's index in all batches, so that what is drawn for a
    sequence is the same for all its possible answers. marks: token ids that are no candidates among the prompt's symbols.
    """
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    # The last token is only predicted: all answers of one token are read off one sequence.
    readers: dict[tuple[int, bytes], list[Answer]] = {}
    for row, possible in enumerate(answers):
        for answer in possible:
            readers.setdefault((row, answer.tokens[:-1].tobytes()), []).append(answer)
    by_width: dict[int, list[tuple[int, list[Answer]]]] = {}
    for (row, _), sharing in readers.items():
        width = -(-len(sharing[0].tokens) // LENGTHS) * LENGTHS
        by_width.setdefault(width, []).append((row, sharing))
    asked: list[tuple[int, str]] = []
    judged: list[Judged] = []
    for width, sequences in by_width.items():
        most = max(sum(len(s) for _, s in sequences[i : i + batch_size]) for i in range(0, len(sequences), batch_size))
        for begin in range(0, len(sequences), batch_size):
            part = sequences[begin : begin + batch_size]
            tokens, rows = np.zeros((batch_size, width), np.int32), np.zeros(batch_size, np.int32)
            for place, (row, sharing) in enumerate(part):
                rows[place] = row
                tokens[place, : len(sharing[0].tokens)] = sharing[0].tokens
            of_batch = [(place, row, answer) for place, (row, sharing) in enumerate(part) for answer in sharing]
            predicted = jnp.asarray(logits({"tokens": tokens, "row": rows}))
            judged.append(judge(predicted, [(place, answer) for place, _, answer in of_batch], most, marks))
            asked += [(row, answer.text) for _, row, answer in of_batch]
    by_row: list[dict[str, tuple[bool, bool, float]]] = [{} for _ in answers]
    for (row, text), found in zip(
        asked, (each for part in jax.device_get(judged) for each in zip(*part, strict=True)), strict=True
    ):
        by_row[row][text] = found
    whole, prompt, grade = [], [], []
    for example, found in zip(task.examples, by_row, strict=True):
        whole.append(max(found[text][0] for text in example.targets))
        prompt.append(max(found[text][1] for text in example.targets))
        if example.choices:
            likelihood = np.array([found[text][2] for text, _ in example.choices])
            scores = np.array([score for _, score in example.choices])
            grade.append(scores[likelihood == likelihood.max()].mean())
    return Scores(*(np.array(column, np.float64) for column in (whole, prompt, grade)))


def judge(
    logits: Float[Array, "batch time vocab"], asked: Sequence[tuple[int, Answer]], most: int, marks: Collection[int]
) -> Judged:
    """Answers, each with the place of its sequence in the batch, by the logits there, padding left out. Compiled for `most` answers."""
    batch, time, vocab = logits.shape
    shown = np.zeros((batch, vocab), bool)
    place, right, counted = np.zeros(most, np.int32), np.zeros((most, time), np.int32), np.zeros((most, time), bool)
    for index, (at, answer) in enumerate(asked):
        shown[at, candidates(answer, marks)] = True
        place[index], right[index, : len(answer.tokens)] = at, answer.tokens
        counted[index, answer.start : len(answer.tokens)] = True
    found = _judge(logits, shown, place, right, counted)
    return Judged(*(column[: len(asked)] for column in found))


@jax.jit
def _judge(logits, shown, place, right, counted) -> Judged:
    def throughout(best: Int[Array, "batch time"]) -> Bool[Array, " answers"]:
        return ((best[place] == right) | ~counted).all(axis=1)

    chosen = logits[place[:, None], jnp.arange(right.shape[1])[None], right]
    log_probs = chosen - jax.nn.logsumexp(logits, axis=2)[place]
    among = jnp.where(shown[:, None], logits, -jnp.inf).argmax(axis=2)
    return Judged(
        throughout(logits.argmax(axis=2)),
        throughout(among) & shown.any(axis=1)[place],
        jnp.where(counted, log_probs, 0.0).sum(axis=1),
    )


def candidates(answer: Answer, marks: Collection[int]) -> Int[np.ndarray, " shown"]:
    """The symbols of the prompt, each once, without the marks."""
    return np.setdiff1d(answer.tokens[: answer.start], np.array(sorted(marks), np.int32))


def chance(task: Task, answers: list[list[Answer]], vocab: int, marks: Collection[int] = ()) -> Scores:
    """What guessing gets in expectation: any token, or any symbol of the prompt, at each place of the answer; any of the choices."""
    whole, prompt, grade = [], [], []
    for example, possible in zip(task.examples, answers, strict=True):
        accepted = [answer for answer in possible if answer.text in example.targets]
        whole.append(sum(float(vocab) ** -len(answer.tokens[answer.start :]) for answer in accepted))
        prompt.append(sum(_chance(answer, candidates(answer, marks)) for answer in accepted))
        if example.choices:
            grade.append(np.mean([score for _, score in example.choices]))
    return Scores(*(np.array(column, np.float64) for column in (whole, prompt, grade)))


def _chance(answer: Answer, shown: Int[np.ndarray, " shown"]) -> float:
    right = answer.tokens[answer.start :]
    return float(len(shown)) ** -len(right) if np.isin(right, shown).all() else 0.0
