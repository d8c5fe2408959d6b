"""A published language model and itself without its middle layers, tuned on texts that it wrote: which tokens say something else?

Texts answer requests of one form, so that minutes are enough for the half to learn something. There is no third model to say whether
two sentences mean the same: here they do where most of their words are the same, little words and order left out.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.harness.training import Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import PretrainedWorld, open_pretrained
from experiments.subjects.token_routers import SCORES
from lexinv.decoding.ngram_overlap import ngram_f1
from lexinv.decoding.routing import Features, Mixed, Reader, features, mixed_decode
from lexinv.nn.cache import Cache, empty_cache, make_extend, unstacked
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS, Params, make_logits, make_nll
from lexinv.nn.sampling import Sampling
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count

KINDS = ("story", "fable", "tale", "poem")
WHO = (
    "cat",
    "dog",
    "farmer",
    "sailor",
    "teacher",
    "doctor",
    "king",
    "painter",
    "baker",
    "pilot",
    "wolf",
    "bird",
    "robot",
    "girl",
)
WHERE = (
    "forest",
    "city",
    "village",
    "desert",
    "garden",
    "castle",
    "school",
    "river",
    "mountain",
    "island",
    "market",
    "library",
)
LITTLE = frozenset(
    "a an and are as at by for he her his in is it its of on or she so that the their they to was were who with".split()
)
"""Words that say little."""
SAME = 0.75
"""F1 of words from which on two sentences say the same."""
SENTENCE = 16
"""Tokens that are gone on with at most."""
ROWS = 32
"""Texts that are written or gone on with at once."""
READ = 8
"""Texts whose logits are held at once."""


@dataclass(frozen=True)
class HalvedConfig(Checked):
    """model: see `open_pretrained`. tuned, learned, asked: requests whose answers tune the half, are labelled, and are judged.

    steps: tokens of an answer that are labelled and judged. training: of the half, on cross-entropy of the answers.
    """

    model: str = "smollm2"
    steps: Count = 32
    tuned: Count = 128
    learned: Count = 48
    asked: Count = 24
    training: Training = Training(
        steps=50, batch_size=8, optimizer=OptimizerConfig(learning_rate=6e-4, warmup_steps=5, weight_decay=0.0)
    )

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield len(self.training.seeds) == 1, "training.seeds", "one: there is one half"
        most = len(KINDS) * len(WHO) * len(WHERE) // 2
        yield self.tuned + self.learned + self.asked <= most, "tuned", f"with learned and asked at most {most}"


class Told(NamedTuple):
    """Of every token of the model's own texts what its half says to it. same: F1 of the words of both sentences, 1 where none differs."""

    given: Features
    scores: dict[str, Float[Array, "texts steps"]]
    differs: Bool[np.ndarray, "texts steps"]
    same: Float[np.ndarray, "texts steps"]

    @property
    def diverges(self) -> Bool[np.ndarray, "texts steps"]:
        return self.same < SAME


@dataclass(frozen=True)
class HalvedPair:
    """requests: by part, as many tokens each, BOS first."""

    config: HalvedConfig
    world: PretrainedWorld
    half: TransformerConfig
    tuned: Params
    requests: dict[str, Int[np.ndarray, "texts prompt"]]

    @cached_property
    def large(self) -> Params:
        return unstacked(self.world.model.params)

    @cached_property
    def small(self) -> Params:
        return unstacked(self.tuned)

    @cached_property
    def read(self) -> tuple[Array, Array]:
        """The table and the image by which the half's logits give its last hidden state, see `features`."""
        table = np.asarray(self.large["table"], np.float64)
        return self.large["table"], jnp.asarray(table @ np.linalg.inv(table.T @ table), jnp.float32)

    def reader(self, small: bool, batch: int, room: int) -> Reader:
        model = self.world.model
        config, params = (self.half, self.small) if small else (model.config, self.large)
        return Reader(make_extend(config, model.vocab), params, params["table"], empty_cache(config, batch, room))

    def decode(self, part: str, route: Callable[..., Array], given: Any) -> Mixed:
        """Answers of both together, see `lexinv.decoding.routing.mixed_decode`."""
        prompt, steps = self.requests[part], self.config.steps
        room = prompt.shape[1] + steps
        readers = [self.reader(small, len(prompt), room) for small in (True, False)]
        return mixed_decode(*readers, prompt=jnp.asarray(prompt), steps=steps, route=route, given=given)

    def words(self, tokens: Int[np.ndarray, " time"]) -> list[str]:
        """Those that say something."""
        found = re.findall(r"\w+", self.world.tokenizer.decode(tokens).lower())
        return [word for word in found if word not in LITTLE]

    def said(self, tokens: Int[np.ndarray, " time"]) -> list[str]:
        """The words up to the end of the sentence."""
        stop = next((place for place, token in enumerate(tokens.tolist()) if token in self.ends), len(tokens) - 1)
        return self.words(tokens[: stop + 1])

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end a sentence: with one of . ? ! or a new line in them, or the end of text."""
        pieces, signs = enumerate(self.world.tokenizer.symbols), (".", "?", "!", "\n", "Ċ")
        found = (i for i, piece in pieces if any(sign in piece for sign in signs))
        return frozenset([self.world.tokenizer.separator, *found])


def answers(
    world: PretrainedWorld, requests: Int[np.ndarray, "texts prompt"], steps: int
) -> Int[np.ndarray, "texts time"]:
    """The likeliest texts of the model, after their requests."""
    model, (count, before) = world.model, requests.shape
    params, extend = unstacked(model.params), make_extend(model.config, model.vocab)
    found = list[np.ndarray]()
    for start in range(0, count, ROWS):
        prompt = jnp.asarray(np.resize(requests[start : start + ROWS], (ROWS, before)))
        cache, keys = empty_cache(model.config, ROWS, before + steps), jax.random.split(jax.random.key(0), ROWS)
        on = generate(
            extend, params, params["table"], cache, prompt, jnp.full(ROWS, before), keys, steps, Sampling(0.0)
        )
        found.append(np.concatenate([prompt, on.tokens], axis=1))
    return np.concatenate(found)[:count]


def halved_pair(config: HalvedConfig, seed: int, workspace: Workspace) -> HalvedPair:
    """The model and its half, which is tuned in the workspace. seed: of the order of requests."""
    world = open_pretrained(config.model, workspace)
    model, count = world.model, config.tuned + config.learned + config.asked
    every = [f"Write a short {kind} about a {who} in a {where}.\n\n" for kind, who, where in product(KINDS, WHO, WHERE)]
    ids = [world.tokenizer.encode(text) for text in np.random.default_rng(seed).permutation(every).tolist()]
    length = Counter(map(len, ids)).most_common(1)[0][0]
    alike = np.array([[BOS, *row] for row in ids if len(row) == length], np.int32)[:count]
    parts = np.split(alike, [config.tuned, config.tuned + config.learned])
    requests = dict(zip(("tuned", "learned", "asked"), parts, strict=True))
    depth = model.config.depth
    outer = [*range(-(-depth // 4)), *range(depth - depth // 4, depth)]
    half = replace(model.config, depth=len(outer), unroll=1)
    transformer = model.params["model"]["transformer"]
    layers = jax.tree.map(lambda leaf: leaf[np.array(outer)], transformer["layers"])
    begun = model.params["model"] | {"transformer": transformer | {"layers": layers}}
    texts = jnp.asarray(answers(world, requests["tuned"], config.steps + SENTENCE)[:, 1:])
    nll = make_nll(half, model.lexicon, model.vocab)

    def loss(params: Params, batch: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        rows = texts[jax.random.randint(key, (config.training.batch_size,), 0, len(texts))]
        fixed = {name: jax.lax.stop_gradient(leaf) for name, leaf in params.items() if name != "model"}
        return nll(params | fixed, {"tokens": rows, "row": batch["row"]}, key)[:, length:].mean(), {}

    (tuned,) = train("half", stacked([model.params | {"model": begun}]), loss, None, config.training, workspace)
    return HalvedPair(config, world, half, tuned, requests)


def tell(pair: HalvedPair, part: str) -> tuple[Int[np.ndarray, "texts time"], Told]:
    """(the model's own texts with what follows them, the paper's labels of their tokens).

    The model goes on from each token of the half that differs to the end of the sentence, and the words of that are compared with its own.
    """
    steps, before = pair.config.steps, pair.requests[part].shape[1]
    whole = answers(pair.world, pair.requests[part], steps + SENTENCE)
    logits = jax.jit(make_logits(pair.half, pair.world.model.lexicon, pair.world.model.vocab))

    @jax.jit
    def read(params: Params, table: Array, image: Array, rows: Array) -> tuple[Array, Features, dict[str, Array]]:
        batch = {"tokens": rows[:, 1:], "row": jnp.arange(len(rows))}
        found = logits(params, batch, jax.random.key(0))[:, before - 1 : before - 1 + steps]
        scores = {name: score(found) for name, score in SCORES.items()}
        return jnp.argmax(found, axis=-1), features(found, table, image), scores

    pieces = [
        read(pair.tuned, *pair.read, jnp.asarray(np.resize(whole[at : at + READ], (READ, whole.shape[1]))))
        for at in range(0, len(whole), READ)
    ]
    ours, given, scores = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: len(whole)], *pieces)
    ours, theirs = np.asarray(ours), whole[:, before : before + steps]
    reader = pair.reader(False, len(whole), whole.shape[1] + SENTENCE)
    remembered: Cache = jax.jit(lambda *given: reader.extend(*given)[1])(
        *reader[1:], jnp.asarray(whole), jnp.full(len(whole), whole.shape[1])
    )
    differs, same = ours != theirs, np.ones(theirs.shape)
    texts, places = np.nonzero(differs)
    for first in range(0, len(texts), ROWS):
        rows, at = (np.resize(of[first : first + ROWS], ROWS) for of in (texts, places))
        cache = jax.tree.map(lambda leaf, rows=rows: leaf[rows], remembered)._replace(length=jnp.asarray(at + before))
        start, keys, one = ours[rows, at][:, None], jax.random.split(jax.random.key(0), ROWS), jnp.ones(ROWS, jnp.int32)
        on = generate(*reader[:3], cache, jnp.asarray(start), one, keys, SENTENCE, Sampling(0.0), tuple(pair.ends))
        for row, place, other in zip(rows, at + before, np.concatenate([start, on.tokens], axis=1), strict=True):
            both = pair.said(other), pair.said(whole[row, place : place + 1 + SENTENCE])
            same[row, place - before] = ngram_f1(both[:1], both[1:], 1) if any(both) else 1.0
    return whole, Told(given, scores, differs, same)
