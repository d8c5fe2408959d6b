"""Hypernetworks of language models: trained once over sampled tokenizers, then asked for the rows of any pieces (ZeTT)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments.harness.shared_models import shared_models
from experiments.harness.training import Training, stacked, train, training_losses
from experiments.harness.work import MapDataset
from experiments.harness.workspace import Workspace
from experiments.subjects.text import STANDARD
from experiments.subjects.tokenized_models import TokenizedModels
from experiments.subjects.vocabulary_transfers import windows_of
from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import Tokenizer
from lexinv.nn.language_model import Params, make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.streams import stream
from lexinv.transfer import hypernetwork, sampled_tokenizers, vocabularies
from lexinv.transfer.hypernetwork import (
    HypernetworkConfig,
    identity_loss,
    initialize,
    lexical_loss,
    predict,
    surface,
    target_surface,
)
from lexinv.transfer.sampled_tokenizers import (
    SubstringQueue,
    sample_vocabulary,
    substring_scores,
    unigram_tokenizer,
)
from lexinv.transfer.vocabularies import segmenter, surface_forms
from lexinv.validation import MOST, Checked, Count, Positive

ROOM = 256
"""Vocabularies are filled up to a multiple of it before rows are asked for, so that few programs are compiled."""
NETWORK = TransformerConfig(
    depth=2, width=112, heads=4, mlp_width=224, positions="learned", causal=False, unroll=2, max_length=7
)


@dataclass(frozen=True)
class HypernetworksConfig(Checked):
    """vocabulary: pieces of a sampled tokenizer. queue: batches whose substrings it is drawn from. characters: of a text that is read in
    its first `tokens` tokens. warmup: on the source's own tokens; none with a skip, which has them exactly. training: seeds are those of
    the language models, whatever it says. lexical: the weight of that loss."""

    network: HypernetworkConfig = HypernetworkConfig(length=5, skip=True, transformer=NETWORK)
    vocabulary: Count = 1024
    queue: Count = 16
    characters: Count = 256
    tokens: Count = 80
    lexical: Positive = 0.5
    warmup: Training = Training(
        steps=200, batch_size=1, optimizer=OptimizerConfig("muon", 1e-2, 20), steps_per_dispatch=10
    )
    training: Training = Training(steps=300, optimizer=OptimizerConfig("muon", 1e-2, 20), steps_per_dispatch=10)

    def checks(self):
        for name in ("warmup", "training"):
            decay = getattr(self, name).optimizer.weight_decay
            yield (
                decay == 0,
                f"{name}.optimizer.weight_decay",
                "0: the language model lies beside, and is not to shrink",
            )


TINY = {
    "network": HypernetworkConfig(4, True, replace(NETWORK, depth=1, width=32, heads=2, mlp_width=64)),
    "vocabulary": 280,
    "queue": 2,
    "characters": 64,
    "tokens": 32,
    "warmup.steps": 4,
    "warmup.optimizer.warmup_steps": 1,
    "warmup.steps_per_dispatch": 2,
    "training.steps": 4,
    "training.batch_size": 4,
    "training.optimizer.warmup_steps": 1,
    "training.steps_per_dispatch": 2,
}


@dataclass(frozen=True)
class Hypernetworks:
    """params: of each seed's network. tables: what each reads. losses: [seeds, steps] by stage."""

    config: HypernetworkConfig
    source: Tokenizer
    tables: list[Float[Array, "vocab width"]]
    params: list[Params]
    losses: dict[str, Float[np.ndarray, "seeds steps"]]

    def rows(self, place: int, pieces: Sequence[bytes]) -> Float[np.ndarray, "pieces width"]:
        """Of any bytes, by the network of the seed at `place`. Raises `InvalidConfig` for bytes that the source cannot spell."""
        forms = surface(surface_forms(pieces, segmenter(self.source), self.config.length))
        return self._rows(place, forms)

    def table(self, place: int, target: Tokenizer) -> Float[np.ndarray, "vocab width"]:
        """For a whole target: all rows are made, but the separator's, which is the source's."""
        made = self._rows(place, target_surface(self.source, target, self.config.length))
        made[target.separator] = self.tables[place][self.source.separator]
        return made

    def _rows(self, place: int, forms: Int[np.ndarray, "pieces length"]) -> np.ndarray:
        filled = np.pad(forms, ((0, -len(forms) % ROOM), (0, 0)))
        return np.array(_predict(self.config, self.params[place], filled, (self.tables[place],))[0])[: len(forms)]


_predict = jax.jit(predict, static_argnums=0)


def hypernetworks(
    config: HypernetworksConfig, models: TokenizedModels, seeds: Sequence[int], corpus: Corpus, workspace: Workspace
) -> Hypernetworks:
    """One for each of the models, which have these seeds; trained on the corpus's train split, or found in the user's cache."""
    tables = [jnp.asarray(params["table"]) for params in models.params]
    source = models.tokenizer
    anchors = jnp.asarray(target_surface(source, source, config.network.length))
    begun = [
        initialize(config.network, stream(jax.random.key(seed), "parameters"), (table,), anchors)
        for seed, table in zip(seeds, tables, strict=True)
    ]
    stages = {} if config.network.skip else {"identity": replace(config.warmup, seeds=tuple(seeds))}
    stages["transfer"] = replace(config.training, seeds=tuple(seeds))

    def trained(shared: Workspace) -> list[Any]:
        given = stacked([{"model": params["model"], "table": params["table"]} for params in models.params])
        start, found = {"learned": stacked(begun), "given": given}, []
        for stage, training in stages.items():
            warm = stage == "identity"
            loss = make_identity(config, anchors) if warm else make_transfer(config, models)
            read = None if warm else batches(config, training, source, corpus)
            found = train(stage, start, loss, read, training, shared, tokens=1 if warm else config.tokens)
            start = stacked(found)
        courses = {stage: training_losses(stage, training, shared) for stage, training in stages.items()}
        return [
            {"learned": params["learned"]} | {stage: losses[place] for stage, losses in courses.items()}
            for place, params in enumerate(found)
        ]

    content = {"config": asdict(config), "models": models.identity, "corpus": corpus.fingerprint, "seeds": tuple(seeds)}
    sources = (hypernetwork, sampled_tokenizers, vocabularies)
    found = shared_models(content, trained, workspace, sources).params
    losses = {stage: np.stack([each[stage] for each in found]) for stage in stages}
    return Hypernetworks(config.network, source, tables, [each["learned"] for each in found], losses)


Loss = Callable[[Params, Any, Key[Array, ""]], tuple[Array, dict[str, Array]]]


def make_identity(config: HypernetworksConfig, forms: Int[Array, "vocab length"]) -> Loss:
    """The warm-up's: every token of the source by itself."""

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        source = (jax.lax.stop_gradient(params["given"]["table"]),)
        return identity_loss(predict(config.network, params["learned"], forms, source), source), {}

    return loss


def make_transfer(config: HypernetworksConfig, models: TokenizedModels) -> Loss:
    """Nats per token of the frozen language model with the rows of a sampled tokenizer, and the lexical loss."""
    nll, separator = make_nll(models.model, STANDARD, config.vocabulary + 1), models.tokenizer.separator

    def loss(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        given = jax.lax.stop_gradient(params["given"])
        source, forms, tokens = (given["table"],), batch["surface"], batch["tokens"]
        (made,) = predict(config.network, params["learned"], forms, source)
        table = made.at[-1].set(given["table"][separator])
        read = {"tokens": tokens, "row": jnp.arange(len(tokens))}
        nats = nll({"model": given["model"], "table": table}, read, key).sum()
        nats /= jnp.maximum((tokens >= 0).sum(), 1).astype(jnp.float32)
        lexical = lexical_loss((made,), forms, source)
        return nats + config.lexical * lexical, {"nats": nats, "lexical": lexical}

    return loss


def batches(
    config: HypernetworksConfig, training: Training, source: Tokenizer, corpus: Corpus
) -> Callable[[int], MapDataset]:
    """By seed: {"surface": of a tokenizer sampled for every step, "tokens": of texts in it}; any dispatch is made without the others."""
    text = " ".join(corpus.splits["train"])
    segment, count = cache(segmenter(source)), training.steps_per_dispatch

    def of_seed(seed: int) -> MapDataset:
        import grain

        @lru_cache(maxsize=config.queue + 2 * count)
        def drawn(step: int) -> tuple[list[str], dict[str, int]]:
            random = np.random.default_rng((seed, step))
            texts = [_cut(text, config.characters, random) for _ in range(training.batch_size)]
            return texts, substring_scores(texts)

        def dispatch(index: int) -> dict[str, np.ndarray]:
            queue, rows = SubstringQueue(config.queue), []
            for step in range(index * count, (index + 1) * count + config.queue - 1):
                texts, scores = drawn(step)
                queue.push(scores)
                if step >= index * count + config.queue - 1:
                    random = np.random.default_rng((seed, step, 1))
                    target = unigram_tokenizer(sample_vocabulary(random, queue.scores, config.vocabulary))
                    forms = surface(surface_forms(target.pieces, segment, config.network.length))
                    forms[target.separator, 0] = source.separator
                    rows.append({"surface": forms, "tokens": _windows(target, texts, config.tokens)})
            return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

        return grain.MapDataset.range(MOST // count).map(dispatch)

    return of_seed


def _cut(text: str, size: int, random: np.random.Generator) -> str:
    """From a space to a space."""
    start = text.find(" ", int(random.integers(len(text) - 2 * size)))
    return text[start : max(text.rfind(" ", start + 1, start + size + 1), start + 1)]


def _windows(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> np.ndarray:
    found = windows_of(tokenizer, texts)[:, :length]
    return np.pad(found, ((0, 0), (0, length - found.shape[1])), constant_values=-1)
