"""What scores code: a small judge trained on candidates of list functions, and a published language model asked for a score."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.harness.training import Training
from experiments.subjects.list_functions import HEAD, STEPS, TAIL, Problem, tokens
from experiments.subjects.pretrained_language_model import PretrainedWorld
from lexinv.decoding.judges import BEST, meta_evaluation, render
from lexinv.decoding.ngram_overlap import bleu, chrf
from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.language_model import BOS, LanguageModel, Params, initialize
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import require

ASKED, PADDING = BEST + 1, BEST + 2
"""Tokens of the trained judge after its scores 0 to `BEST`: where a score is to come, and nothing."""


class TrainedJudge:
    """Reads words, a reference or none, and a candidate, each in places of its own, in both directions; says a score at the first."""

    def __init__(self, length: int, depth: int, width: int):
        texts = [*STEPS, *(f"x = {way}" for ways in STEPS.values() for way in ways), ", then"]
        words = sorted({token for text in texts for token in tokens(text)})
        self.ids = {word: PADDING + 1 + place for place, word in enumerate(words)}
        said, done = (max(len(tokens(text)) for text in of) for of in (STEPS, [w for of in STEPS.values() for w in of]))
        self.places = length * (said + 2), length * (done + 2)
        self.config = TransformerConfig(
            depth=depth,
            width=width,
            heads=4,
            mlp_width=2 * width,
            max_length=1 + self.places[0] + 2 * self.places[1],
            causal=False,
            unroll=depth,
        )

    def start(self, key: Array) -> Params:
        return initialize(self.config, LexiconConfig(), PADDING + 1 + len(self.ids), key)

    def read(self, words: str, candidate: str, reference: str = "") -> list[int]:
        """A prompt as tokens of the judge."""
        parts = zip((words, reference, candidate), (self.places[0], self.places[1], self.places[1]), strict=True)
        found = [ASKED]
        for text, room in parts:
            ids = [self.ids[token] for token in tokens(text.removeprefix(HEAD).removesuffix(TAIL))]
            found += ids + [PADDING] * (room - len(ids))
        return found

    def log_probs(self, params: Params, prompts: Int[Array, "rows time"]) -> Float[Array, "rows scores"]:
        """Of the scores 0 to `BEST`, among themselves, in nats."""
        logits: Any = LanguageModel(self.config).apply({"params": params["model"]}, prompts, params["table"])
        return jax.nn.log_softmax(logits[:, 0, : BEST + 1])

    def loss(self, params: Params, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy of the best score for what is right and of 0 for what is wrong."""
        del key
        found = self.log_probs(params, batch["prompts"])
        return -jnp.mean(jnp.take_along_axis(found, BEST * batch["right"][:, None], axis=1)), {}

    def batches(self, known: Mapping[int, Sequence[Problem]], training: Training, seed: int) -> Any:
        """Candidates drawn from the problems of a seed, one prompt in two with the reference."""
        import grain

        pool = np.array(
            [[self.read(p.words, text, r) for r in ("", p.reference)] for p in known[seed] for text in p.candidates],
            np.int32,
        )
        right = np.array([gold for problem in known[seed] for gold in problem.right], np.int32)
        shape = training.steps_per_dispatch, training.batch_size

        def draw(index: int) -> dict[str, np.ndarray]:
            random = np.random.default_rng((seed, index))
            at = random.integers(len(pool), size=shape)
            return {"prompts": pool[at, random.integers(2, size=shape)], "right": right[at]}

        return grain.MapDataset.range(training.steps // training.steps_per_dispatch).map(draw)


class AskedModel:
    """A language model that is asked for a score; a problem is read once for all of its candidates."""

    def __init__(self, world: PretrainedWorld):
        self.world = world
        ids = [world.tokenizer.encode(f" {score}").tolist() for score in range(BEST + 1)]
        self.lead, self.scores = ids[0][:-1], [one[-1] for one in ids]
        alike = len(set(self.scores)) == len(ids) and all(one[:-1] == self.lead for one in ids)
        require(alike, "model", ids, "a tokenizer that writes the scores as one token each, after the same ones")

    @cached_property
    def _read(self) -> Callable[..., tuple[Array, Array]]:
        model = self.world.model
        extend = make_extend(model.config, model.vocab)

        @jax.jit
        def read(params: Params, shared: Array, count: Array, tails: Array, counts: Array) -> tuple[Array, Array]:
            table, rows = params["table"], len(tails)
            cache = empty_cache(model.config, 1, shared.shape[1] + tails.shape[1])
            cache = extend(params, table, cache, shared, count)[1]  # nobody reads these logits: they are not computed
            cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, axis=0), cache)
            cache = extend(params, table, cache, tails[:, :-1], counts - 1)[1]
            last = jnp.take_along_axis(tails, counts[:, None] - 1, axis=1)
            logits = extend(params, table, cache, last, jnp.ones(rows, jnp.int32))[0][:, 0]
            return jax.nn.log_softmax(logits)[:, jnp.asarray(self.scores)], jnp.argmax(logits, axis=1)

        return read

    def ask(
        self, problems: Sequence[Problem], referred: bool
    ) -> tuple[Float[np.ndarray, "problems candidates scores"], list[list[str]]]:
        """Log-probabilities of the score tokens in nats, and the token that it would write, by problem and candidate."""
        encode, params = self.world.tokenizer.encode, unstacked(self.world.model.params)
        heads, tails = list[list[int]](), list[list[list[int]]]()
        for problem in problems:
            reference = problem.reference if referred else None
            parts = [render(problem.words, candidate, reference) for candidate in problem.candidates]
            heads.append([BOS, *encode(parts[0][0]).tolist()])
            tails.append([[*encode(tail).tolist(), *self.lead] for _, tail in parts])
        room, most = max(map(len, heads)), max(len(tail) for row in tails for tail in row)
        found, said = [], list[list[str]]()
        for head, row in zip(heads, tails, strict=True):
            counts = np.array([len(tail) for tail in row], np.int32)
            padded = np.array([tail + [0] * (most - len(tail)) for tail in row], np.int32)
            whole = np.array([head + [0] * (room - len(head))], np.int32)
            scores, best = self._read(params, whole, np.array([len(head)], np.int32), padded, counts)
            found.append(np.asarray(scores))
            said.append([self.world.tokenizer.decode([int(token)]) for token in best])
        return np.stack(found), said


def agreement(gold: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Means over the problems [P, C]."""
    dropped, zero = (meta_evaluation(gold, scores, undefined) for undefined in ("dropped", "zero"))
    told = not np.all(dropped.undefined)
    return {
        "auc": round(float(np.nanmean(dropped.auc)), 5),
        "tau": round(float(np.nanmean(dropped.tau)), 5) if told else 0.0,
        "tau_zero": round(float(np.nanmean(zero.tau)), 5),
        "undefined": round(float(np.mean(dropped.undefined)), 5),
    }


def overlaps(given: Sequence[Problem]) -> dict[str, np.ndarray]:
    """Scores [P, C] that need no model."""
    rows = {"bleu": [], "chrf": [], "short": []}
    for problem in given:
        texts, right = problem.candidates, tokens(problem.reference)
        rows["bleu"].append([bleu([tokens(text)], [right]) for text in texts])
        rows["chrf"].append([chrf(text, problem.reference) for text in texts])
        rows["short"].append([-len(tokens(text)) for text in texts])
    return {name: np.array(values, np.float64) for name, values in rows.items()}
