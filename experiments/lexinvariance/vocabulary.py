"""How much of a lexinvariant model's gap to a standard one is left at the window's end, by vocabulary and for code and prose.

Huang et al. 2023 (arXiv 2305.16349), perplexity against position for three corpora and three tokenizers; method card lexinvariant-lm.
For every corpus and tokenizer a lexinvariant and a standard model, all else equal, each beside its untrained state, whose circuit for
matching was set by hand. What a token is differs between tokenizers: they lose nothing of the text, and all is in bits per byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.corpora import slug
from experiments.harness.curves import by_position
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import GREY, PALETTE, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds, training_mesh, untrained_seeds
from experiments.subjects.text import (
    LEXINVARIANT,
    MUON,
    PUBLISHED_EVALUATION,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    STANDARD,
    SUFFIX_MATCH,
    DataConfig,
    EvaluationConfig,
    Text,
    TextModels,
    held_out_nats,
    prepare,
)
from lexinv.nn.language_model import make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, CountOrZero, Distinct

PAPERS = ("huang2023lexinvariant",)
KINDS = {"standard": STANDARD, "lexinvariant": LEXINVARIANT}


@dataclass(frozen=True)
class Config(Checked):
    """code, prose: the corpora that are compared. tokenizers: from the smallest vocabulary to the largest; lossless ones.

    vocab_block: see `lexinv.nn.lexicon.LexiconConfig`; for the last tokenizer only.
    """

    model: TransformerConfig = replace(SUFFIX_MATCH, width=128, mlp_width=128)
    training: Training = Training(
        steps=200, batch_size=8, seeds=(0, 1, 2), optimizer=replace(MUON, warmup_steps=20), steps_per_dispatch=10
    )
    code: str = "python-stdlib"
    prose: str = "python-docs"
    tokenizers: Distinct[str] = ("byte", "bpe:1024")
    context: Count = 256
    evaluation: EvaluationConfig = EvaluationConfig(windows=128)
    vocab_block: CountOrZero = 0

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield self.code != self.prose, "prose", "another corpus than code"
        yield len(self.tokenizers) > 1, "tokenizers", "at least two"
        TextModels(self.data(self.tokenizers[0]), self.model, self.training)  # refuses what does not fit together

    def data(self, tokenizer: str) -> DataConfig:
        return DataConfig((self.code, self.prose), tokenizer, self.context)


PRESETS = presets(
    Config(),
    smoke={
        "model": replace(SUFFIX_MATCH, depth=1, width=32, mlp_width=32, mixing="none", initialization="normal"),
        "training": Training(steps=4, batch_size=4, seeds=(0, 1), optimizer=OptimizerConfig(warmup_steps=1)),
        "tokenizers": ("byte", "bpe:300"),
        "context": 64,
        "evaluation": EvaluationConfig(windows=8, batch_size=8),
    },
    paper={
        "model": PUBLISHED_MODEL,
        "training": PUBLISHED_TRAINING,
        "prose": "tfds:wiki40b/en",
        "tokenizers": ("byte", "bpe:32000"),
        "context": 512,
        "evaluation": PUBLISHED_EVALUATION,
        "vocab_block": 4000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Bits by position and bytes by position of every arm, by corpus, tokenizer and kind; one row per seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    seeds, corpora = config.training.seeds, (config.code, config.prose)
    texts = {
        (corpus, tokenizer): prepare(corpus, config.data(tokenizer), len(seeds), config.evaluation.windows, workspace)
        for corpus in corpora
        for tokenizer in config.tokenizers
    }
    fingerprints = {corpus: texts[corpus, config.tokenizers[0]].fingerprint for corpus in corpora}
    return {
        "corpora": workspace.pinned("corpora", fingerprints),
        "seeds": list(seeds),
        "context": config.context,
        "vocab": {tokenizer: texts[config.code, tokenizer].vocab for tokenizer in config.tokenizers},
        "arms": {
            corpus: {
                tokenizer: workspace.cached(
                    f"arms/{slug(corpus)}/{slug(tokenizer)}",
                    lambda corpus=corpus, tokenizer=tokenizer: measure(
                        texts[corpus, tokenizer], tokenizer == config.tokenizers[-1], config, workspace
                    ),
                )
                for tokenizer in config.tokenizers
            }
            for corpus in corpora
        },
    }


def measure(text: Text, largest: bool, config: Config, workspace: Workspace) -> dict[str, Any]:
    """Mean bytes of a token at each position, and mean bits of both models there, untrained and trained, by seed."""
    found: dict[str, Any] = {"bytes": by_position([text.tokenizer.token_bytes[w] for w in text.held_out])}
    block, seeds = config.vocab_block if largest else 0, config.training.seeds
    made = {kind: (config.model, replace(lexicon, vocab_block=block), text.vocab) for kind, lexicon in KINDS.items()}
    folder = f"{slug(text.name)}/{slug(text.tokenizer.name)}"
    # All before any is evaluated: a run that is left for a training, and started again, has nothing to evaluate again.
    trained = {
        kind: train_seeds(f"{folder}-{kind}", *how, text.train, config.training, workspace)
        for kind, how in made.items()
    }
    for kind, how in made.items():
        nll = make_nll(*how)
        for state, params in (("untrained", untrained_seeds(*how, seeds)), ("trained", trained[kind])):
            nats = held_out_nats(nll, params, text.held_out, config.evaluation.batch_size)
            found[f"{kind}, {state}"] = by_position([member / np.log(2.0) for member in nats])
    return found


def per_byte(arm: dict[str, Any], model: str, part: slice) -> np.ndarray:
    """Bits per byte in a part of the window, per seed."""
    return np.array(arm[model])[:, part].sum(axis=1) / np.array(arm["bytes"])[:, part].sum(axis=1)


def gap_left(arm: dict[str, Any]) -> np.ndarray:
    """The gap of the lexinvariant model to the standard one in the last quarter of the window over that in the first, per seed."""
    quarter = len(arm["bytes"][0]) // 4
    first, last = (
        per_byte(arm, "lexinvariant, trained", part) - per_byte(arm, "standard, trained", part)
        for part in (slice(0, quarter), slice(-quarter, None))
    )
    return last / first


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statements on vocabularies and corpora, and whether training had a part in it."""
    arms, quarter = results["arms"], results["context"] // 4
    code, prose = results["corpora"]
    smallest, *_, largest = tokenizers = list(results["vocab"])
    left = {corpus: {tokenizer: gap_left(arms[corpus][tokenizer]) for tokenizer in tokenizers} for corpus in arms}
    learned = {
        f"{corpus}, {tokenizer}": np.subtract(
            *(per_byte(arm, f"lexinvariant, {state}", slice(-quarter, None)) for state in ("untrained", "trained"))
        )
        for corpus, by_tokenizer in arms.items()
        for tokenizer, arm in by_tokenizer.items()
    }
    share = "difference of the shares of the first quarter's gap, in bits per byte, that are left in the last quarter"
    return [
        Claim(
            "larger_vocabulary_keeps_more_of_the_gap",
            f"Of its gap to the standard model in the first quarter of the window the lexinvariant one keeps more with {largest} than with "
            f"{smallest}.",
            "huang2023lexinvariant",
            {corpus: left[corpus][largest] - left[corpus][smallest] for corpus in (code, prose)},
            above(0),
            share,
            "32k tokens stay far behind at 512 [recalled]",
        ),
        Claim(
            "code_closes_faster_than_prose",
            f"It keeps less on {code} than on {prose}.",
            "huang2023lexinvariant",
            {tokenizer: left[code][tokenizer] - left[prose][tokenizer] for tokenizer in tokenizers},
            below(0),
            share,
            "code closes the gap faster",
        ),
        Claim(
            "trained_above_its_start",
            "In the last quarter the lexinvariant model is better than its own untrained state.",
            OURS,
            learned,
            above(0),
            "bits per byte of the untrained state above its own",
        ),
    ]


MODELS = {
    "lexinvariant, trained": "-",
    "lexinvariant, untrained": ":",
    "standard, trained": "--",
}


def figure(results: dict[str, Any]) -> Figure:
    """Bits per byte against the bytes read, a column per corpus, and the share of the gap that is left."""
    corpora, vocab = list(results["corpora"]), results["vocab"]
    drawn, axes = panels(1, len(corpora) + 1, width=4.2, height=3.6, titles=[*corpora, "Gap that is left"])
    edges = np.arange(0, results["context"], max(results["context"] // 16, 1))
    with styled():
        for panel, corpus in zip(axes, corpora, strict=False):
            for (tokenizer, size), color in zip(vocab.items(), PALETTE, strict=False):
                arm = results["arms"][corpus][tokenizer]
                bytes_ = np.add.reduceat(np.array(arm["bytes"]), edges, axis=1)
                read = bytes_.mean(axis=0).cumsum() - bytes_.mean(axis=0) / 2
                for model, line in MODELS.items():
                    bits = np.add.reduceat(np.array(arm[model]), edges, axis=1)
                    label = f"{tokenizer} (V = {size:,})" if line == "-" else f"_{model}"
                    band(panel, read, bits / bytes_, label, color, linestyle=line)
            for model, line in MODELS.items():
                panel.plot([], [], color=GREY, linestyle=line, label=model)
            panel.set(xlabel="bytes read", ylabel="bits per byte", xscale="log")
            panel.legend(fontsize=7)
        rows = {
            f"{corpus}\n{tokenizer}": gap_left(arm)
            for corpus, by_tokenizer in results["arms"].items()
            for tokenizer, arm in by_tokenizer.items()
        }
        dots(axes[-1], rows)
        axes[-1].set(xlabel="gap in the last quarter / in the first", xlim=(0, None))
    return drawn
