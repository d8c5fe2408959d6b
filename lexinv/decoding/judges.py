"""Language models as judges of code, and how well any score follows what is right (ICE-Score).

Zhuo 2024 (arXiv 2304.14317); method card llm-code-evaluators. Scores are from 0 to `BEST`.
"""

import re
from collections import Counter
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from lexinv.validation import choose, require

BEST = 4
CRITERION = f"""You will be given a code snippet for a problem. Rate the snippet on one metric only.

Evaluation criteria: functional correctness ({0}-{BEST}): whether the snippet does what the problem asks for, on all inputs.
A score of 0 means that it fails on all tests; a score of {BEST} means that it passes all of them.

Evaluation steps:
1. Read the problem and what it asks for.
2. Read the code snippet and compare it to the problem{{compared}}.
3. Assign a score from 0 to {BEST}.
"""


def render(problem: str, code: str, reference: str | None = None) -> tuple[str, str]:
    """A prompt in two parts, of which candidates of a problem share the first; it ends where the score is to come.

    The form is the paper's, in words of our own. What is put in is not read for places to put something in.
    """
    compared = "" if reference is None else " and to the reference code"
    shared = f"{CRITERION.format(compared=compared)}\nProblem:\n{problem.strip()}\n\n"
    if reference is not None:
        shared += f"Reference Code:\n{reference.strip()}\n\n"
    return shared, f"Code Snippet:\n{code.strip()}\n\nFunctional Correctness (scores ONLY):"


def parse_score(text: str, best: int = BEST) -> float:
    """The score that a text gives, NaN where it gives none; the released code takes that as 0, which makes bad form look like bad code.

    A bare number is one. Otherwise the numbers from 0 to `best` in lines that speak of a score, without "out of 4" and "/4" and without
    the numbers of a list, vote, the last of equals winning; where no line does, those of a single line.
    """
    lines = [re.sub(r"^\s*\d+[.)]\s+", "", line) for line in text.lower().strip().splitlines()]
    said = [line for line in lines if re.search(r"scor|\brat(e|ing)|\bgive|correct", line)]
    said = said or (lines if len(lines) == 1 else [])
    found = list[float]()
    for line in said:
        line = re.sub(rf"(/|\bout of)\s*{best}\b", " ", line)
        line = re.sub(rf"\b0\s*(-|to)\s*{best}\b", " ", line)
        found += [float(number) for number in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w]|\.\d)", line)]
    votes = Counter(score for score in reversed(found) if 0 <= score <= best)
    return votes.most_common(1)[0][0] if votes else float("nan")


def expected_score(log_probs: Float[Array | np.ndarray, "*batch scores"]) -> Float[Array, "*batch"]:
    """sum_k k p(k) over the score tokens 0, 1, ..., renormalised: without the ties of the most likely score (Liu et al. 2023, G-Eval)."""
    probs = jax.nn.softmax(log_probs, axis=-1)
    return jnp.sum(probs * jnp.broadcast_to(jnp.arange(probs.shape[-1], dtype=probs.dtype), probs.shape), axis=-1)


class Agreement(NamedTuple):
    """By problem, NaN where the gold is constant, which says nothing of a score.

    tau: Kendall's tau-b. auc: of pairs that the gold tells apart the share that the score orders alike, ties half. undefined: whether the
    score is constant, for which tau-b is 0 / 0.
    """

    tau: Float[np.ndarray, " problems"]
    auc: Float[np.ndarray, " problems"]
    undefined: np.ndarray


def meta_evaluation(
    gold: Real[np.ndarray, "problems candidates"],
    scores: Real[np.ndarray, "others any"],
    undefined: Literal["dropped", "zero"] = "dropped",
) -> Agreement:
    """How scores of candidates follow what is right, problem by problem; their means over problems are `numpy.nanmean`.

    With the signs g and s of differences of gold and scores over pairs, AUC = (1 + sum gs / sum g^2) / 2 and
    tau-b = sum gs / sqrt(sum g^2 sum s^2): of two scores of one AUC the one with more ties has the higher tau. undefined: tau of a constant
    score is NaN, so that a mean drops it as the paper's does, or 0. Candidates whose score is NaN, unparsable, are left out. Raises
    `InvalidConfig` for unlike shapes, and where the gold is constant in every problem.
    """
    choose("undefined", undefined, ("dropped", "zero"))
    gold, scores = np.asarray(gold, np.float64), np.asarray(scores, np.float64)
    require(gold.shape == scores.shape and gold.ndim == 2, "scores", scores.shape, f"one for each gold, {gold.shape}")
    pairs = np.triu_indices(gold.shape[1], 1)
    g, s = (np.sign(values[:, pairs[0]] - values[:, pairs[1]]) for values in (gold, scores))
    g = np.where(np.isnan(s), 0.0, g)
    require(bool(np.any(g)), "gold", gold.shape, "not constant in every problem, among candidates with a score")
    s = np.nan_to_num(s)
    informative, told = np.any(g, axis=1), np.any(s, axis=1)
    with np.errstate(invalid="ignore"):
        agreed, apart = np.sum(g * s, axis=1), np.sum(g**2, axis=1)
        tau = agreed / np.sqrt(apart * np.sum(s**2, axis=1))
        auc = np.where(informative, (1 + agreed / apart) / 2, np.nan)
    tau = np.where(told, tau, 0.0 if undefined == "zero" else np.nan)
    return Agreement(np.where(informative, tau, np.nan), auc, informative & ~told)
