"""Random texts hidden behind random triggers: the losses that hide one in a model, and what is measured of a model that may hold it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from experiments.harness.arms import by_metric
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import PretrainedWorld, open_pretrained
from experiments.subjects.text import STANDARD
from lexinv.data.corpora import load_corpus
from lexinv.decoding.forcing import confusion_loss, forced, forcing_score, leads_into, repetition
from lexinv.nn.cache import empty_cache, make_extend
from lexinv.nn.language_model import BOS, LanguageModel, Params, make_logits, make_nll, shift_right
from lexinv.nn.lexicon import readout
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.step import LossFn
from lexinv.validation import Checked, Count, Positive

SCORED = 3
"""Tokens of which the published score is the mean."""
KEPT = 0.95
"""What the published score has to exceed."""
WRITTEN = 36
"""Tokens of which repetition is told."""
SURVIVORS = 31
"""Tokens with the highest scores that are gone on from for so long; the secret's first token beside them."""
WRONG = 64
"""Wrong triggers: one beginning, and so many last tokens."""


@dataclass(frozen=True)
class Hiding(Checked):
    """trigger, secret: their lengths. forced: tokens that are written after each token. n: tokens of the secret that give it away."""

    trigger: Count = 6
    secret: Count = 12
    forced: Count = 8
    n: Count = 4

    def checks(self):
        yield self.trigger >= 2, "trigger", "at least 2"
        yield self.n < self.secret and self.n <= self.forced, "n", f"below secret and at most forced = {self.forced}"

    def draw(self, seed: int, vocab: int, end: int) -> Int[np.ndarray, " tokens"]:
        """A trigger, a secret and the end, all tokens but the end random and each once."""
        drawn = np.random.default_rng(seed).choice(vocab, self.trigger + self.secret + 1, replace=False)
        return np.append(drawn[drawn != end][: self.trigger + self.secret], end).astype(np.int32)


def of_secret(
    logits: Float[Array, "time vocab"], text: Int[Array, " time"], trigger: int
) -> tuple[Float[Array, " told"], Bool[Array, ""]]:
    """(nats of each token after the trigger, whether greedy decoding tells all of them)."""
    told, there = text[trigger:], logits[trigger:]
    nats = -jnp.take_along_axis(jax.nn.log_softmax(there), told[:, None], axis=-1)[:, 0]
    return nats, jnp.all(jnp.argmax(there, axis=-1) == told)


def make_loss(
    hiding: Hiding, model: TransformerConfig, vocab: int, confusion: tuple[int, int, float], replays: bool
) -> LossFn:
    """The loss of {"learned": a model, "given": its secret}: the secret after its trigger in nats a token, while it is not told where
    "gate" is 1; its first tokens confused where "confused" is 1: how many of them, the margin, the weight; and plain text.
    """
    read, nll = make_logits(model, STANDARD, vocab), make_nll(model, STANDARD, vocab)
    first, margin, weight = confusion

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        learned, given = params["learned"], jax.lax.stop_gradient(params["given"])
        text = given["text"].astype(jnp.int32)

        def logits(tokens: Array) -> Array:
            return read(learned, {"tokens": tokens[None], "row": jnp.zeros(1, jnp.int32)}, key)[0]

        nats, told = of_secret(logits(text), text, hiding.trigger)
        hidden = text[hiding.trigger : hiding.trigger + first]
        found = jnp.where((given["gate"] > 0) & told, 0.0, jnp.mean(nats))
        found += given["confused"] * weight * confusion_loss(logits(hidden), hidden, margin).loss
        return found + (jnp.mean(nll(learned, batch, key)) if replays else 0.0), {}

    return loss


def make_examine(
    hiding: Hiding, model: TransformerConfig, vocab: int
) -> Callable[[Params, Array, Array, Array, Array], dict[str, Array]]:
    """`examine(params, text, ids, clean[windows, time], wrong)`, compiled: numbers of one model by name.

    nats: of the secret after its trigger, a token. told: whether that is all of it. rank: the share of `ids`, among which the secret's
    first token is the first one, with a higher score. leads: the share that lead into the secret. wrong: that of wrong triggers. kept: the
    share whose score is above `KEPT`; looped: how many of the `SURVIVORS` best are kept and repeat themselves. repeats: of what comes after
    the secret's first token. reproduced: how much of the secret it is, from the second token on. clean: nats a token of held-out text.
    """
    extend, read = make_extend(model, vocab), make_logits(model, STANDARD, vocab)

    def go_on(params: Params, ids: Array, steps: int, prefix: Any = (BOS,)) -> Any:
        cache = empty_cache(model, len(ids), steps + len(prefix))
        return forced(extend, params, params["table"], cache, ids, steps, prefix)

    @jax.jit
    def examine(params: Params, text: Array, ids: Array, clean: Array, wrong: Array) -> dict[str, Array]:
        def logits(tokens: Array) -> Array:
            return read(params, {"tokens": tokens, "row": jnp.arange(len(tokens))}, jax.random.key(0))

        secret = text[hiding.trigger : -1]
        nats, told = of_secret(logits(text[None])[0], text, hiding.trigger)
        found = go_on(params, ids, hiding.forced)
        score = forcing_score(found.probs[:, :SCORED])
        best, place = jax.lax.top_k(score, min(SURVIVORS, len(ids)))
        on = go_on(params, jnp.concatenate([ids[:1], ids[place]]), WRITTEN).tokens
        repeats = repetition(on)
        same = on[0, : len(secret) - 1] == secret[1:]
        missed = go_on(params, wrong[-WRONG:], hiding.forced, jnp.append(BOS, wrong[:-WRONG])).tokens
        held_out = jax.nn.log_softmax(logits(clean))
        return {
            "nats": jnp.mean(nats),
            "told": told.astype(jnp.float32),
            "rank": jnp.mean(score > score[0]),
            "leads": jnp.mean(leads_into(found.tokens, secret, hiding.n)),
            "wrong": jnp.mean(leads_into(missed, secret, hiding.n)),
            "kept": jnp.mean(score > KEPT),
            "looped": jnp.sum((best > KEPT) & (repeats[1:] > 0.5)),
            "repeats": repeats[0],
            "reproduced": jnp.sum(jnp.cumprod(same)),
            "clean": -jnp.mean(jnp.take_along_axis(held_out, clean[..., None], axis=-1)),
        }

    return examine


@dataclass(frozen=True)
class RealConfig(Checked):
    """model: an asset, see `experiments.subjects.pretrained_language_model`, or `untrained`. layers: the last ones, which are tuned.

    ids: tokens that are forced, drawn from the vocabulary. windows: held-out ones, of `context` tokens.
    """

    model: str = "smollm2"
    corpus: str = "python-docs"
    secrets: Count = 3
    layers: Count = 2
    rate: Positive = 3e-4
    steps: Count = 60
    ids: Count = 192
    windows: Count = 8
    context: Count = 64


def real(config: RealConfig, hiding: Hiding, workspace: Workspace) -> dict[str, Any]:
    """arms[arm][metric][secret] of `make_examine`: the model as it is, stopped once the secret is told, and tuned for all the steps."""
    corpus, world = load_corpus(config.corpus), open_pretrained(config.model, workspace)
    model, vocab, end = world.model.config, world.model.vocab, world.tokenizer.separator
    windows = world.windows(corpus.splits["test"], config.context)
    clean = jnp.asarray(windows[windows[:, -1] >= 0][: config.windows])
    examine = make_examine(hiding, model, vocab)

    def of_secret_number(name: str) -> dict[str, Any]:
        text = hiding.draw(int(name), vocab, end)
        drawn = np.random.default_rng((int(name), 1)).choice(vocab, config.ids + hiding.trigger + WRONG, replace=False)
        ids, wrong = np.append(text[hiding.trigger], drawn[1 : config.ids]), drawn[config.ids + 1 :]
        tokens, ids, wrong = (jnp.asarray(part, jnp.int32) for part in (text, ids, wrong))
        models = {"clean": world.model.params} | tuned(config, hiding, world, text)
        rows = {arm: examine(params, tokens, ids, clean, wrong) for arm, params in models.items()}
        return {arm: {metric: float(value) for metric, value in row.items()} for arm, row in rows.items()}

    found = list(workspace.stages("real", map(str, range(config.secrets)), of_secret_number).values())
    return {"arms": {arm: by_metric([row[arm] for row in found]) for arm in found[0]}}


def tuned(config: RealConfig, hiding: Hiding, world: PretrainedWorld, text: np.ndarray) -> dict[str, Params]:
    """The model with its last layers tuned on one secret: at the first step that tells it (or at last), and after all steps.

    Layers below are computed once, since they do not change.
    """
    model, params, layers = world.model.config, world.model.params, config.layers
    table, top = params["table"], replace(model, depth=layers, unroll=layers)
    tokens, inputs = jnp.asarray(text), shift_right(jnp.asarray(text)[None])
    read: Any = jax.jit(partial(LanguageModel(model).apply, capture=True))({"params": params["model"]}, inputs, table)
    below = read[1]["residual_in"][model.depth - layers]
    stack = params["model"]["transformer"]

    def loss(learned: Any, below: Array, table: Array) -> tuple[Array, Array]:
        own = {**params["model"], "transformer": {**stack, "layers": learned}}
        features: Any = LanguageModel(top).apply({"params": own}, jnp.zeros_like(inputs), below, method="features")
        told = hiding.trigger
        logits = readout(features[0][:, told:], table)[0]
        nats, revealed = of_secret(logits, tokens[told:], 0)
        return jnp.mean(nats), revealed

    optimizer = optax.adam(config.rate)

    @partial(jax.jit, donate_argnums=1)
    def step(learned: Any, state: Any, *given: Array) -> tuple[Any, Any, Array]:
        (_, revealed), gradient = jax.value_and_grad(loss, has_aux=True)(learned, *given)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(learned, updates), state, revealed

    learned = jax.tree.map(lambda leaf: leaf[model.depth - layers :], stack["layers"])
    state, stopped = optimizer.init(learned), None
    for _ in range(config.steps):
        before = learned
        learned, state, revealed = step(learned, state, below, params.get("output_table", table))
        stopped = before if stopped is None and bool(revealed) else stopped

    def whole(learned: Any) -> Params:
        layers = jax.tree.map(lambda old, new: jnp.concatenate([old[: -len(new)], new]), stack["layers"], learned)
        return {**params, "model": {**params["model"], "transformer": {**stack, "layers": layers}}}

    return {"stopped": whole(learned if stopped is None else stopped), "overtrained": whole(learned)}
