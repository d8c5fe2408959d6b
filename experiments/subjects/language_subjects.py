"""The models whose activations autoencoders are trained on: a published language model, or a text encoder.

What an experiment needs of each is the same: rows to train on, rows to calibrate and to judge on, and what becomes of the model's output
when its activations are exchanged for their reconstructions.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.harness.corpora import installed, note_folded
from experiments.harness.shared_models import machine, training_code
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import PretrainedWorld, open_pretrained, untrained
from lexinv.data.cache import prepared
from lexinv.data.corpora import Corpus, load_corpus
from lexinv.data.windows import Windows, array_windows, evaluation_windows, token_stream, window_source
from lexinv.nn.language_model import BOS, LanguageModel, make_nll
from lexinv.nn.sites import Site, make_activations
from lexinv.sae.activation_files import ActivationFiles, write_shards
from lexinv.sae.activation_streams import ActivationsFn, ActivationSource, model_activations
from lexinv.validation import Checked, Count, CountOrZero, Distinct, require

Edit = Callable[[Any, Float[Array, "*tokens width"]], Float[Array, "*tokens width"]]
"""`edit(extra, activations)`: what stands in for activations; `extra` are its own arrays, such as an autoencoder's parameters."""

BLOCK = 16
"""Windows whose activations are computed at a time."""
CONTINUED = 4
"""Windows that a model reads to the end at a time: its logits are of batch, time and vocabulary."""
UNTRAINED = "untrained"


@dataclass(frozen=True)
class SubjectConfig(Checked):
    """model: an asset with a language model (`smollm2`), the folder of a checkpoint or a GGUF file (`lexinv.nn.pretrained`), `minilm`, or
    `untrained`, a tiny one with random weights that needs no network.

    corpora: read in equal parts; one whose package is missing is left out. context: tokens of a window. layer: the residual stream after
        it is read, from 0. By the middle of SmolLM2 separators and some first tokens are attention sinks, with 150 times the norm of others
        and nearly all of the variance; the default lies before that.
    windows: of the training text, on whose activations autoencoders are trained. keep: these lie in the user's cache as float16; otherwise
        they are computed again in every epoch. continued: held-out windows of each seed on which the model goes on from reconstructions.
    """

    model: str = "smollm2"
    corpora: Distinct[str] = ("python-stdlib", "python-docs", "kjv")
    context: Count = 128
    layer: CountOrZero = 9
    windows: Count = 780
    keep: bool = True
    continued: Count = 12

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.model != "", "model", "the name of an asset, or a folder"
        yield self.context >= 8, "context", "at least 8 tokens"

    @property
    def name(self) -> str:
        """Of the model, for folders and results."""
        return self.model if self.model in NAMED else "checkpoint"


NAMED = {"smollm2": "SmolLM2-135M-Instruct", "minilm": "MiniLM-L6", UNTRAINED: "untrained"}
SMALL = SubjectConfig(UNTRAINED, ("python-stdlib",), context=32, layer=0, windows=64, continued=4)
"""Of presets of seconds."""
GPT2 = SubjectConfig("gpt2", ("tfds:wiki40b/en",), context=512, layer=5, windows=400_000, keep=False)
"""Of presets of the published size."""


class HeldOut(NamedTuple):
    """Activations to judge on, all positions of some windows one after another.

    losses: nats of predicting the token after each position; None of an encoder.
    """

    rows: Float[np.ndarray, "tokens width"]
    losses: Float[np.ndarray, " tokens"] | None


class Subject(Protocol):
    """A model made ready: `held_out` has windows of their own for every seed. `identity`: of all that decides its activations."""

    width: int
    source: ActivationSource
    calibration: Float[np.ndarray, "tokens width"]
    held_out: Sequence[HeldOut]
    fingerprints: Mapping[str, str]
    identity: str

    def splice(self, edit: Edit) -> Callable[[Any, int], float]:
        """`measure(extra, seed)`: the output with every activation exchanged, on the windows of seed number `seed`.

        A language model: mean loss in nats per token. An encoder: mean cosine of a sentence's embedding to what it was.
        """
        ...


@dataclass(frozen=True, eq=False)
class LanguageSubject:
    """A `Subject` that is a language model. test: the held-out windows of each corpus."""

    world: PretrainedWorld
    site: Site
    test: Sequence[Windows]
    source: ActivationSource
    calibration: Float[np.ndarray, "tokens width"]
    windows: Sequence[Int[np.ndarray, "windows time"]]
    held_out: Sequence[HeldOut]
    fingerprints: Mapping[str, str]
    identity: str
    continued: int

    @property
    def width(self) -> int:
        return self.world.model.config.width

    def reader(self, windows: Int[np.ndarray, "windows time"]) -> Callable[[np.ndarray], np.ndarray]:
        """Reads these windows once; `read(some)` gives the activations of some of them, one window after another."""
        rows = read_windows(self.world, self.site, windows)
        places = {window.tobytes(): place for place, window in enumerate(windows)}
        return lambda some: rows[[places[window.tobytes()] for window in some]].reshape(-1, self.width)

    def splice(self, edit: Edit) -> Callable[[Any, int], float]:
        going_on = going_on_of(self.world, self.site)
        compiled = jax.jit(lambda params, tokens, rows, extra: going_on(params, tokens, edit(extra, rows)))

        def measure(extra: Any, seed: int) -> float:
            windows = self.windows[seed][: self.continued]
            rows = self.held_out[seed].rows.reshape(len(self.windows[seed]), -1, self.width)
            found = [
                np.asarray(compiled(self.world.model.params, jnp.asarray(windows[chosen]), rows[chosen], extra))
                for chosen in blocks(len(windows), CONTINUED)
            ]
            return float(np.concatenate(found)[: len(windows)].mean())

        return measure


def activations_of(world: PretrainedWorld, site: Site) -> ActivationsFn:
    """`make_activations` of the model."""
    return make_activations(world.model.config, world.model.lexicon, world.model.vocab, site)


def going_on_of(world: PretrainedWorld, site: Site) -> Callable[..., Float[Array, "windows time_read"]]:
    """`nats(params, tokens, rows)`: the model goes on from rows [windows, time - 1, width] at the site; of all tokens but the first.

    Compiled, nothing below the site is computed.
    """
    model = world.model
    nll, above = make_nll(model.config, model.lexicon, model.vocab), (site.layer, lambda name, x: x)
    variables, bos = {"params": model.params["model"]}, jnp.full((1, 1), BOS, jnp.int32)
    read: Any = LanguageModel(model.config).apply(
        variables, bos, jnp.zeros((1, 1, model.config.width)), True, above, method="features"
    )
    first = read[1][site.name][:, :1]  # of BOS, the same in every window

    def nats(params: Any, tokens: Array, rows: Array) -> Array:
        beginning = jnp.broadcast_to(first, (len(tokens), *first.shape[1:]))

        def change(name: str, x: Array) -> Array:
            return jnp.concatenate([beginning, rows.astype(x.dtype)], axis=1) if name == site.name else x

        batch = {"tokens": tokens, "row": jnp.arange(len(tokens), dtype=jnp.int32)}
        return nll(params, batch, unused_key(), (site.layer, change))[:, 1:]

    return nats


def unused_key() -> jax.Array:
    """The key of models that draw nothing. A function, since making a key starts JAX's backend, which importing must not."""
    return jax.random.key(0)


def blocks(count: int, size: int = BLOCK) -> Int[np.ndarray, "blocks size"]:
    """Numbers 0 to `count` - 1 in rows of equal length, the last filled up with 0."""
    size = min(size, count)
    numbers = np.zeros((-(-count // size), size), np.int64)
    numbers.reshape(-1)[:count] = np.arange(count)
    return numbers


def load_corpora(config: SubjectConfig) -> list[Corpus]:
    """Those that are there; the first must be."""
    return [load_corpus(name) for name in config.corpora if name == config.corpora[0] or installed(name)]


def drawn(sources: Sequence[Windows], count: int, seed: int, field: str) -> Int[np.ndarray, "windows time"]:
    """`count` different windows, equally many of each source, mixed. Raises `InvalidConfig` naming `field` where there are fewer."""
    shares = [count // len(sources) + (i < count % len(sources)) for i in range(len(sources))]
    fewest = min(len(source) - 1 for source in sources)  # the very last may be padded
    require(max(shares) <= fewest, field, count, f"at most {fewest * len(sources)}: {fewest} of the smallest corpus")
    parts = [evaluation_windows(s, share, seed) for s, share in zip(sources, shares, strict=True) if share]
    return np.random.default_rng(seed).permutation(np.concatenate(parts))


def open_language_model(config: SubjectConfig, tokens: int, seeds: int, workspace: Workspace) -> LanguageSubject:
    """Load the model and read its activations: at least `tokens` for each of `seeds`, and as many for calibration.

    Raises `InvalidConfig` where a corpus has not so much text or the model not so many layers.
    """
    # A folder that holds no model is refused before a large corpus is fetched.
    world = None if config.model == UNTRAINED else open_pretrained(config.model, workspace)
    corpora = load_corpora(config)
    world = world or untrained(corpora[0])
    found: dict[str, list[Windows]] = {"train": [], "validation": [], "test": []}
    for corpus in corpora:
        streams = {split: token_stream(corpus, split, world.tokenizer) for split in found}
        note_folded(workspace, corpus.name, world.tokenizer.name, {name: each.folded for name, each in streams.items()})
        for split, stream in streams.items():
            found[split].append(window_source(stream, config.context))
    site, each = Site(config.layer, "residual_out"), -(-tokens // (config.context - 1))
    train = drawn(found["train"], config.windows, 0, "windows")
    validation = drawn(found["validation"], each, 0, "calibration tokens")
    shares = np.split(drawn(found["test"], seeds * each, 0, "held-out tokens"), seeds)
    whole = array_windows(train.reshape(-1).astype(np.uint32), config.context)
    computed = model_activations(activations_of(world, site), world.model.params, whole, BLOCK, unused_key())
    fingerprints = {corpus.name: corpus.fingerprint for corpus in corpora}
    parts = {"config": asdict(config), "tokens": tokens, "seeds": seeds, "corpora": fingerprints}
    identity = identify(parts | {"model": digest(world), "tokenizer": world.tokenizer.fingerprint}, __file__)

    def build(folder: Path) -> None:
        if config.keep:
            write_shards(folder / "train", map(computed.block, range(len(computed.block_rows))), 2**15, "float16")
        np.save(folder / "calibration.npy", read_windows(world, site, validation))
        compiled = jax.jit(going_on_of(world, site))
        for seed, windows in enumerate(shares):
            rows = read_windows(world, site, windows)
            nats = [
                np.asarray(compiled(world.model.params, jnp.asarray(windows[chosen]), rows[chosen]))
                for chosen in blocks(len(windows), CONTINUED)
            ]
            np.save(folder / f"rows-{seed}.npy", rows)
            np.save(folder / f"losses-{seed}.npy", np.concatenate(nats)[: len(windows)])

    kept, width = prepared(None, "activations", identity, build), world.model.config.width
    source = ActivationFiles(sorted((kept / "train").glob("*.npy"))) if config.keep else computed
    calibration = np.load(kept / "calibration.npy").reshape(-1, width)
    rows, losses = ([np.load(kept / f"{name}-{i}.npy") for i in range(seeds)] for name in ("rows", "losses"))
    held_out = [
        HeldOut(*(part.reshape(-1, *part.shape[2:]) for part in pair)) for pair in zip(rows, losses, strict=True)
    ]
    texts = world, site, found["test"], source, calibration, shares, held_out, fingerprints, identity
    return LanguageSubject(*texts, config.continued)


def identify(parts: Mapping[str, Any], *files: str) -> str:
    """A name for activations: what decides them, the code that computes them, with these files, and the kind of machine."""
    content = {"parts": parts, "code": training_code(*files), "machine": machine()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def digest(world: PretrainedWorld) -> str:
    """Of the parameters."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(world.model.params):
        found.update(np.ascontiguousarray(leaf))
    return found.hexdigest()[:16]


def read_windows(
    world: PretrainedWorld, site: Site, windows: Int[np.ndarray, "windows time"]
) -> Float[np.ndarray, "windows time_read width"]:
    """Activations at every position but the last of each window, which are those that have something to predict."""
    whole = array_windows(windows.reshape(-1).astype(np.uint32), windows.shape[1])
    found = model_activations(activations_of(world, site), world.model.params, whole, BLOCK, unused_key())
    rows = np.concatenate([found.block(index) for index in range(len(found.block_rows))])
    return rows.reshape(len(windows), windows.shape[1] - 1, -1)
