"""A lexinvariant language model closes most of the gap to a standard one within a context of real text.

Huang et al. 2023 (arXiv 2305.16349), perplexity against position; method card lexinvariant-lm, experiment C. Both models have the same
Transformer, data order and steps; beside them stand in-context n-gram counters, which know nothing of the language, and two controls.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.corpora import installed, slug
from experiments.harness.curves import bins, by_position, rounded
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds, training_mesh
from experiments.subjects.text import (
    LEXINVARIANT,
    MUON,
    PUBLISHED_DATA,
    PUBLISHED_EVALUATION,
    PUBLISHED_MODEL,
    PUBLISHED_TRAINING,
    STANDARD,
    DataConfig,
    EvaluationConfig,
    Text,
    TextModels,
    held_out_nats,
    late,
    prepare,
    with_circuit,
)
from lexinv.data.tokenizers import bits_per_byte
from lexinv.data.windows import evaluation_windows
from lexinv.lexinvariance.controls import make_redrawn_nll, shuffled
from lexinv.lexinvariance.counters import Counter, counter_nll, tune_counter
from lexinv.nn.language_model import make_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import CountOrZero

PAPERS = ("huang2023lexinvariant",)
KINDS = {"standard": STANDARD, "lexinvariant": LEXINVARIANT}


@dataclass(frozen=True)
class Config(TextModels):
    """What one run trains and evaluates.

    vocab_block: see `lexinv.nn.lexicon.LexiconConfig`; for subword vocabularies.
    ablations: other initial circuits, lexinvariant, on the first corpus.
    comparison_steps: the comparison of corpora and the ablations need many models but not good ones: they all, and a pair of models beside
        the main one, are trained for so many steps. 0: as long as the main models, which then take part themselves.
    """

    data: DataConfig = DataConfig(("python-stdlib", "python-docs", "kjv"))
    training: Training = Training(steps=260, seeds=(0, 1, 2), optimizer=MUON, microbatches=2)
    evaluation: EvaluationConfig = EvaluationConfig(windows=512)
    vocab_block: CountOrZero = 0
    ablations: tuple[Literal["plain", "smear"], ...] = ("smear", "plain")
    comparison_steps: CountOrZero = 70

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        _ = self.comparison  # refuses steps that its schedule does not allow

    @property
    def comparison(self) -> Training:
        """How the models of the comparison are trained."""
        return replace(self.training, steps=self.comparison_steps or self.training.steps)


MAIN_ALONE = {"ablations": (), "comparison_steps": 0}
PUBLISHED = {
    "data": PUBLISHED_DATA,
    "model": PUBLISHED_MODEL,
    "training": PUBLISHED_TRAINING,
    "evaluation": PUBLISHED_EVALUATION,
    **MAIN_ALONE,
}
BYTES, SUBWORDS = (replace(PUBLISHED_DATA, tokenizer=name) for name in ("byte", "bpe:32000"))
PRESETS = presets(
    Config(),
    smoke={
        "data": DataConfig(context=64),
        "model.width": 32,
        "model.mlp_width": 64,
        "training.steps": 8,
        "training.batch_size": 4,
        "training.microbatches": 1,
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 2,
        "evaluation": EvaluationConfig(windows=8, batch_size=8, draws=2, max_order=2),
        "ablations": ("plain",),
        "comparison_steps": 0,
    },
    quick={"data": DataConfig(), "training.steps": 300, "training.seeds": (0,), **MAIN_ALONE},
    paper=PUBLISHED,
    **{
        "paper-byte": {**PUBLISHED, "data": BYTES},
        "paper-subword": {**PUBLISHED, "data": SUBWORDS, "vocab_block": 4000},
    },
)


@dataclass(frozen=True)
class Arm:
    """One model, trained with every seed."""

    text: Text
    circuit: str
    kind: str
    model: TransformerConfig
    training: Training

    @property
    def name(self) -> str:
        return f"{slug(self.text.name)}/{self.circuit}-{self.kind}"


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train and evaluate every arm; results by corpus, circuit and lexicon, nats per token by position, one row per seed."""
    seeds = config.training.seeds
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    first, *others = config.data.corpora
    names = (first, *filter(installed, others))
    texts = [prepare(corpus, config.data, len(seeds), config.evaluation.windows, workspace) for corpus in names]
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint for text in texts})
    arms = [Arm(texts[0], "main", kind, config.model, config.training) for kind in KINDS]
    circuit = "comparison" if config.comparison_steps else "main"
    compared = texts if config.comparison_steps else texts[1:]
    arms += [Arm(text, circuit, kind, config.model, config.comparison) for text in compared for kind in KINDS]
    arms += [
        Arm(texts[0], name, "lexinvariant", with_circuit(config.model, name), config.comparison)
        for name in config.ablations
    ]
    results: dict[str, Any] = {
        "corpora": fingerprints,
        "left_out": [corpus for corpus in others if not installed(corpus)],
        "seeds": list(seeds),
        "context": config.data.context,
        "vocab": {text.name: text.vocab for text in texts},
        "comparison_circuit": circuit,
        "counters": {
            text.name: workspace.cached(f"counters/{slug(text.name)}", lambda text=text: count(text, config))
            for text in texts
        },
        "arms": {},
    }
    for arm in arms:
        results["arms"].setdefault(arm.text.name, {}).setdefault(arm.circuit, {})[arm.kind] = workspace.cached(
            arm.name, lambda arm=arm: measure(arm, config, workspace)
        )
    return results


def count(text: Text, config: Config) -> dict[str, Any]:
    """The in-context counters on every seed's windows, and on the same windows with their tokens shuffled."""
    windows = evaluation_windows(text.train, config.evaluation.windows, seed=1)
    tuned = tune_counter(windows, text.vocab, config.evaluation.max_order)
    frequencies = Counter(*(column[:1] for column in tuned))
    nats = [counter_nll(windows, text.vocab, tuned) for windows in text.held_out]
    shuffles = [counter_nll(shuffled(windows), text.vocab, frequencies) for windows in text.held_out]
    return {
        **tuned._asdict(),
        "nats": [rounded(orders.mean(axis=1)) for orders in nats],
        "shuffled": by_position([orders[0] for orders in shuffles]),
    }


def measure(arm: Arm, config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train an arm and evaluate each seed on its own held-out windows."""
    lexicon, text = replace(KINDS[arm.kind], vocab_block=config.vocab_block), arm.text
    params = train_seeds(arm.name, arm.model, lexicon, text.vocab, text.train, arm.training, workspace)
    nll, size = make_nll(arm.model, lexicon, text.vocab), config.evaluation.batch_size
    nats = held_out_nats(nll, params, text.held_out, size)
    bits = [bits_per_byte(*each, text.tokenizer) for each in zip(nats, text.held_out, strict=True)]
    result = {"nats": by_position(nats), "bits_per_byte": bits}
    if arm.circuit == "main" and arm.kind == "lexinvariant":
        later = (held_out_nats(nll, params, text.held_out, size, draw) for draw in range(1, config.evaluation.draws))
        # The average over draws is taken of the probabilities: -log mean exp(-nats).
        averaged = [-np.logaddexp.reduce(-np.stack(m)) + np.log(len(m)) for m in zip(nats, *later, strict=True)]
        disordered = [shuffled(windows) for windows in text.held_out]
        result["nats_of_averaged_draws"] = by_position(averaged)
        result["nats_shuffled"] = by_position(held_out_nats(nll, params, disordered, size))
        if not config.vocab_block:
            redrawn = make_redrawn_nll(arm.model, text.vocab)
            result["nats_redrawn"] = by_position(held_out_nats(redrawn, params, text.held_out, size))
    return result


def remaining_gap(pair: dict[str, Any]) -> np.ndarray:
    """(ppl_lexinvariant - ppl_standard) / ppl_standard over the last 16 positions, as a share of that at positions 8 to 16; per seed."""
    behind = np.array(pair["lexinvariant"]["nats"]) - np.array(pair["standard"]["nats"])
    end, begin = (np.expm1(behind[:, part].mean(axis=1)) for part in (slice(-16, None), slice(8, 16)))
    return end / begin


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statements, and ours about the counters, the controls and the initial circuit, on the numbers."""
    corpus, *prose = results["corpora"]
    arms, circuit, half = results["arms"][corpus], results["comparison_circuit"], results["context"] // 2
    main = {name: np.array(values) for name, values in arms["main"]["lexinvariant"].items()}
    orders = np.array(results["counters"][corpus]["nats"])[:, :, half:].mean(axis=2)  # [seeds, orders]
    best = int(orders.mean(axis=0).argmin())
    counted = {0: "symbol frequencies", 1: "bigrams", best: f"back-off to order {best}, the best"}
    gaps = {name: remaining_gap(by_circuit[circuit]) for name, by_circuit in results["arms"].items()}
    judged = [
        Claim(
            "gap_closes_with_position",
            "The gap in perplexity to the standard model, relative to the standard model, shrinks along the context.",
            "huang2023lexinvariant: abstract",
            {"gap": remaining_gap(arms["main"])},
            below(0.25),
            "gap over the last 16 positions as a share of that at positions 8 to 16",
            "from 9x to under 1x by token 512 (150M parameters, the Pile)",
        ),
        Claim(
            "below_best_in_context_ngram",
            "In the second half of the context the lexinvariant model is below the in-context n-gram counters, which know no language.",
            OURS,
            {label: late(main["nats"]) - orders[:, order] for order, label in counted.items()},
            below(0),
            "its nats per token minus the counter's",
        ),
        Claim(
            "averaged_draws_below_best_in_context_ngram",
            "The same for its prediction averaged over several lexica, which is closer to its expectation over all lexica.",
            OURS,
            {counted[best]: late(main["nats_of_averaged_draws"]) - orders[:, best]},
            below(0),
            "its nats per token minus the counter's",
        ),
        Claim(
            "first_token_is_uniform",
            "On the first token, where no lexinvariant model can know anything, the loss is ln V.",
            OURS,
            {"first token": main["nats"][:, 0] - np.log(results["vocab"][corpus])},
            between(-0.02, 0.02),
            "nats above ln V",
        ),
    ]
    if prose:
        judged.append(
            Claim(
                "code_closes_faster_than_prose",
                "The share of the gap that remains at the end of the context is smaller for code than for prose.",
                "huang2023lexinvariant",
                {f"less than {name}": gaps[corpus] - gaps[name] for name in prose},
                below(0),
                "share that remains for code minus that for prose",
                "code closes the gap faster than prose",
            )
        )
    if "nats_redrawn" in main:
        added = main["nats_redrawn"] - main["nats"]
        judged.append(
            Claim(
                "redrawn_lexicon_destroys_it",
                "Drawing the lexicon anew in the middle of the sequence costs the next 8 tokens at least half a nat each.",
                OURS,
                {"next 8 tokens": added[:, half : half + 8].mean(axis=1)},
                above(0.5),
                "added nats per token",
            )
        )
    reference = late(arms[circuit]["lexinvariant"]["nats"])
    judged += [
        Claim(
            f"suffix_match_beats_{name}",
            f"At the same budget the suffix-match circuit is below the `{name}` one in the second half.",
            OURS,
            {name: late(arms[name]["lexinvariant"]["nats"]) - reference},
            above(0),
            "nats per token of the other one minus its own",
        )
        for name in ("plain", "smear")
        if name in arms
    ]
    return judged


CIRCUITS = {
    "main": "suffix match",
    "comparison": "suffix match, few steps",
    "smear": "smeared keys",
    "plain": "plain",
}


def figure(results: dict[str, Any]) -> Figure:
    """Perplexity by position, the ratio by corpus, the initial circuits, and the controls."""
    corpus = next(iter(results["corpora"]))
    arms, counters = results["arms"][corpus], np.array(results["counters"][corpus]["nats"])
    main, circuit = arms["main"], results["comparison_circuit"]
    x, binned = bins(results["context"])
    drawn, (perplexity, ratio, circuits, controls) = panels(
        2, 2, titles=(corpus, "Perplexity, lexinvariant over standard", "Initial circuits, lexinvariant", "Controls")
    )

    def behind(pair: dict[str, Any]) -> np.ndarray:
        return np.exp(binned(pair["lexinvariant"]["nats"]) - binned(pair["standard"]["nats"]))

    with styled():
        for kind, color in (("standard", BLUE), ("lexinvariant", VERMILION)):
            bits = float(np.mean(main[kind]["bits_per_byte"]))
            band(perplexity, x, np.exp(binned(main[kind]["nats"])), f"{kind}, {bits:.2f} bits per byte", color)
        averaged = np.exp(binned(main["lexinvariant"]["nats_of_averaged_draws"]))
        band(perplexity, x, averaged, "lexinvariant, averaged draws", VERMILION, linestyle=":")
        shown = sorted({0, 1, int(counters.mean(axis=(0, 2)).argmin())})
        for order, color in zip(shown, (GREY, ORANGE, GREEN), strict=False):
            label = f"in-context counter, order {order}"
            band(perplexity, x, np.exp(binned(counters[:, order])), label, color, linestyle="--", linewidth=1)
        perplexity.set(ylabel="perplexity", yscale="log")
        perplexity.set_ylim(top=4 * perplexity.get_ylim()[1])  # room for the legend
        for (name, pairs), color in zip(results["arms"].items(), (VERMILION, BLUE, GREEN), strict=False):
            band(ratio, x, behind(pairs[circuit]), name, color)
        if circuit != "main":
            band(ratio, x, behind(main), f"{corpus}, trained longer", BLACK)
        ratio.axhline(1.0, color=GREY, linewidth=1, linestyle="--")
        ratio.set(ylabel="ratio")
        for (name, pair), color in zip(arms.items(), (VERMILION, ORANGE, BLUE, GREEN), strict=False):
            band(circuits, x, binned(pair["lexinvariant"]["nats"]), CIRCUITS[name], color)
        band(circuits, x, binned(counters.min(axis=1)), "best counter", BLACK, linestyle="--", linewidth=1)
        circuits.set(ylabel="nats per token")
        band(controls, x, binned(main["lexinvariant"]["nats"]), "text", VERMILION)
        if "nats_redrawn" in main["lexinvariant"]:
            band(controls, x, binned(main["lexinvariant"]["nats_redrawn"]), "lexicon redrawn at half", BLUE)
        band(controls, x, binned(main["lexinvariant"]["nats_shuffled"]), "shuffled text", GREEN)
        frequencies = binned(results["counters"][corpus]["shuffled"])
        band(controls, x, frequencies, "shuffled text, frequencies", GREY, linestyle="--", linewidth=1)
        controls.set(ylabel="nats per token")
        for panel in (perplexity, ratio, circuits, controls):
            panel.set_xlabel("position in the context")
            if panel in (circuits, controls):
                panel.set_ylim(bottom=panel.get_ylim()[0] - 0.8)
            panel.legend(loc="lower left" if panel in (circuits, controls) else "upper right")
    return drawn
