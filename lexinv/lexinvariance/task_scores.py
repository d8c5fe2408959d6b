"""How well a language model does a task: exact match of the answer, multiple choice by log-likelihood, and what guessing would get.

Srivastava et al. 2022 (arXiv 2206.04615): `exact_str_match` and `multiple_choice_grade`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import log_softmax

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
    """An answer by a model: is it the argmax throughout, among the vocabulary and among the prompt's symbols; log-likelihood in nats."""

    whole: bool
    prompt: bool
    log_likelihood: float


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
    """Score a model on every example of the task, of which `encode_answers` gives the answers.

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
    judged: list[dict[str, Judged]] = [{} for _ in answers]
    for width, sequences in by_width.items():
        for begin in range(0, len(sequences), batch_size):
            part = sequences[begin : begin + batch_size]
            tokens, rows = np.zeros((batch_size, width), np.int32), np.zeros(batch_size, np.int32)
            for place, (row, sharing) in enumerate(part):
                rows[place] = row
                tokens[place, : len(sharing[0].tokens)] = sharing[0].tokens
            predicted = np.asarray(logits({"tokens": tokens, "row": rows}))
            for place, (row, sharing) in enumerate(part):
                judged[row] |= {answer.text: judge(predicted[place], answer, marks) for answer in sharing}
    whole, prompt, grade = [], [], []
    for example, found in zip(task.examples, judged, strict=True):
        whole.append(max(found[text].whole for text in example.targets))
        prompt.append(max(found[text].prompt for text in example.targets))
        if example.choices:
            likelihood = np.array([found[text].log_likelihood for text, _ in example.choices])
            scores = np.array([score for _, score in example.choices])
            grade.append(scores[likelihood == likelihood.max()].mean())
    return Scores(*(np.array(column, np.float64) for column in (whole, prompt, grade)))


def judge(logits: Float[np.ndarray, "time vocab"], answer: Answer, marks: Collection[int]) -> Judged:
    """One answer by the logits of its sequence, padding behind it left out."""
    right = answer.tokens[answer.start :]
    at_answer = logits[answer.start : len(answer.tokens)].astype(np.float64)
    shown = candidates(answer, marks)
    among_prompt = len(shown) > 0 and bool((shown[at_answer[:, shown].argmax(1)] == right).all())
    log_likelihood = log_softmax(at_answer, axis=1)[np.arange(len(right)), right].sum()
    return Judged(bool((at_answer.argmax(1) == right).all()), among_prompt, float(log_likelihood))


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
