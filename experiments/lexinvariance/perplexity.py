"""Lexinvariant language models are trained on real text, each against its own untrained state, a counter, and a standard model.

Huang et al. 2023 (arXiv 2305.16349), perplexity against position; method card lexinvariant-lm, experiment C. Three models with the same
Transformer, data order and steps: a standard one, one with the paper's Gaussian vectors, and one with a canonical lexicon, which is
lexinvariant exactly. They are followed along their training, from the circuit for matching that they start with. The in-context counter
with recency knows nothing of the language: a model that stays above it has not even learned to count.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms
from experiments.harness.curves import bins, by_position, reached, rounded
from experiments.harness.intervals import ratio_interval
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, VERMILION, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import training_mesh, untrained_seeds
from experiments.subjects.lexicon_models import (
    KINDS,
    PUBLISHED,
    QUICK,
    SMOKE,
    WITHOUT_IDENTITY,
    LexiconModels,
    lexicon,
    train_kind,
)
from experiments.subjects.text import (
    PUBLISHED_DATA,
    SUFFIX_MATCH,
    DataConfig,
    EvaluationConfig,
    Text,
    held_out_nats,
    late,
    prepare,
)
from lexinv.data.tokenizers import bits_per_byte
from lexinv.data.windows import evaluation_windows
from lexinv.lexinvariance.controls import make_redrawn_nll
from lexinv.lexinvariance.counters import counter_nll, tune_counter
from lexinv.nn.language_model import make_nll
from lexinv.training.optimizers import OptimizerConfig

PAPERS = ("huang2023lexinvariant",)
STANDARD_BITS = 2.5
"""Bits per byte that the standard model has to have reached: a gap to a worse one says nothing."""


@dataclass(frozen=True)
class Config(LexiconModels):
    """What one run trains and evaluates."""


BYTES, SUBWORDS = (replace(PUBLISHED_DATA, tokenizer=name) for name in ("byte", "bpe:32000"))
PRESETS = presets(
    Config(),
    smoke=SMOKE,
    quick=QUICK,
    # What one GPU of the class of an H200 should read in about 8 minutes; heads of 64 channels, which flash attention takes.
    accelerator={
        "data": DataConfig(tokenizer="byte", context=512),
        "model": replace(SUFFIX_MATCH, depth=6, width=512, heads=8, mlp_width=2048, dtype="bfloat16"),
        "training": Training(
            steps=800,
            batch_size=128,
            seeds=(0, 1, 2),
            optimizer=OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=50),
            steps_per_dispatch=40,
        ),
        "evaluation": EvaluationConfig(windows=1024, batch_size=128),
        "followed": 128,
    },
    paper=PUBLISHED,
    **{
        "paper-byte": {**PUBLISHED, "data": BYTES},
        "paper-subword": {**PUBLISHED, "data": SUBWORDS, "vocab_block": 4000},
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train and evaluate every kind; nats per token by position and along the training, one row per seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    seeds = config.training.seeds
    text = prepare(config.data.corpora[0], config.data, len(seeds), config.evaluation.windows, workspace)
    return {
        "corpora": workspace.pinned("corpora", {text.name: text.fingerprint}),
        "seeds": list(seeds),
        "context": config.data.context,
        "vocab": text.vocab,
        "tokens_per_step": config.training.batch_size * config.data.context,
        "counter": workspace.cached("counter", lambda: count(text, config)),
        "arms": {
            kind: workspace.cached(f"arms/{kind}", lambda kind=kind: measure(kind, text, config, workspace))
            for kind in KINDS
        },
    }


def count(text: Text, config: Config) -> dict[str, Any]:
    """The in-context counter with recency, of the order that is best on training text, on every seed's windows."""
    windows = evaluation_windows(text.train, config.evaluation.windows, seed=1)
    tuned = tune_counter(windows, text.vocab, config.evaluation.max_order)
    order = int(late(counter_nll(windows, text.vocab, tuned).mean(axis=1)).argmin())
    nats = [counter_nll(windows, text.vocab, tuned)[order] for windows in text.held_out]
    followed = [late(each[: config.followed]).mean() for each in nats] if config.followed else []
    return {"order": order, **tuned._asdict(), "nats": by_position(nats), "followed": rounded(np.array(followed))}


def measure(kind: str, text: Text, config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train a kind, follow it, and evaluate each seed on its own held-out windows, before and after."""
    model, size = (config.model, lexicon(kind, config), text.vocab), config.evaluation.batch_size
    nll = make_nll(*model)
    begun = held_out_nats(nll, untrained_seeds(*model, config.training.seeds), text.held_out, size)
    trained = train_kind(kind, text, config, workspace)
    params = [each.params for each in trained]
    nats = held_out_nats(nll, params, text.held_out, size)
    bits = [bits_per_byte(*each, text.tokenizer) for each in zip(nats, text.held_out, strict=True)]
    result = {"untrained": by_position(begun), "nats": by_position(nats), "bits_per_byte": bits}
    if config.followed:
        result |= {"steps": trained[0].steps, "followed": rounded(np.stack([each.nats for each in trained]))}
    if kind == "Gaussian":
        later = (held_out_nats(nll, params, text.held_out, size, draw) for draw in range(1, config.evaluation.draws))
        # The average over draws is taken of the probabilities: -log mean exp(-nats).
        averaged = [-np.logaddexp.reduce(-np.stack(m)) + np.log(len(m)) for m in zip(nats, *later, strict=True)]
        result["averaged"] = by_position(averaged)
        if not config.vocab_block:
            redrawn = make_redrawn_nll(config.model, text.vocab)
            result["redrawn"] = by_position(held_out_nats(redrawn, params, text.held_out, size))
    return result


def remaining_gap(nats: Any, standard: Any) -> np.ndarray:
    """(ppl - ppl_standard) / ppl_standard over the last 16 positions, as a share of that at positions 8 to 16; per seed."""
    behind = np.array(nats) - np.array(standard)
    end, begin = (np.expm1(behind[:, part].mean(axis=1)) for part in (slice(-16, None), slice(8, 16)))
    return end / begin


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statement, and ours about the start, the counter, the order in which they learn, and the controls."""
    arms, half = Arms(results), results["context"] // 2
    nats = {kind: arms[kind, "nats"] for kind in KINDS}
    gaussian, standard = results["arms"]["Gaussian"], late(nats["standard"])
    counter = late(results["counter"]["nats"])
    below_counter = {"one draw": late(nats["Gaussian"]), "averaged over draws": late(gaussian["averaged"])}
    judged = [
        Claim(
            "gap_closes_with_position",
            "The gap in perplexity to the standard model, relative to the standard model, shrinks along the context; the standard model "
            f"has learned the language: it is below {STANDARD_BITS:g} bits per byte.",
            "huang2023lexinvariant: abstract",
            {
                **{kind: remaining_gap(nats[kind], nats["standard"]) for kind in WITHOUT_IDENTITY},
                "standard, bits per byte": arms["standard", "bits_per_byte"],
            },
            {**dict.fromkeys(WITHOUT_IDENTITY, below(0.25)), "standard, bits per byte": below(STANDARD_BITS)},
            "gap over the last 16 positions as a share of that at positions 8 to 16",
            "from 9x to under 1x by token 512 (150M parameters, the Pile)",
        ),
        Claim(
            "trained_above_its_start",
            "In the second half of the context every model is better than its own untrained state, whose circuit was set by hand.",
            OURS,
            {kind: late(arms[kind, "untrained"]) - late(nats[kind]) for kind in KINDS},
            above(0),
            "nats per token of the untrained state above its own",
        ),
        Claim(
            "below_recency_counter",
            "There the model with Gaussian vectors is below the in-context counter with recency, which knows no language.",
            OURS,
            {name: values - counter for name, values in below_counter.items()},
            below(0),
            "its nats per token minus the counter's",
        ),
        Claim(
            "canonical_below_recency_counter",
            "So is the model with a canonical lexicon; beside it the standard one.",
            OURS,
            {"canonical": late(nats["canonical"]) - counter, "standard": standard - counter},
            {"canonical": below(0)},
            "its nats per token minus the counter's",
        ),
        Claim(
            "first_token_is_uniform",
            "On the first token, where no lexinvariant model can know anything, the loss is ln V.",
            OURS,
            {kind: nats[kind][:, 0] - np.log(results["vocab"]) for kind in WITHOUT_IDENTITY},
            between(-0.02, 0.02),
            "nats above ln V",
        ),
    ]
    if "redrawn" in gaussian:
        added = np.array(gaussian["redrawn"]) - nats["Gaussian"]
        judged.append(
            Claim(
                "redrawn_lexicon_destroys_it",
                "Drawing the Gaussian vectors anew in the middle of the sequence costs the next 8 tokens at least half a nat each.",
                OURS,
                {"next 8 tokens": added[:, half : half + 8].mean(axis=1)},
                above(0.5),
                "added nats per token",
            )
        )
    if "followed" in gaussian:
        level, spent = results["counter"]["followed"], trained_tokens(results)
        canonical, random = (reached(level, spent, arms[kind, "followed"]) for kind in WITHOUT_IDENTITY)
        ratio = np.minimum(random, spent[-1]) / np.maximum(canonical, results["tokens_per_step"])
        known = np.isfinite(canonical).all()
        judged.append(
            Claim(
                "canonical_learns_faster",
                "Gaussian vectors take more than 3 times as many tokens as a canonical lexicon to pass the in-context counter with "
                "recency. Where they never do, all that they were trained on are counted.",
                OURS,
                {"Gaussian over canonical": ratio_interval(ratio) if known else np.nan},
                above(3),
                "ratio of tokens, geometric mean",
            )
        )
    return judged


def trained_tokens(results: dict[str, Any]) -> np.ndarray:
    """Tokens that had been read at each evaluation of the training."""
    return results["tokens_per_step"] * np.array(results["arms"]["Gaussian"]["steps"])


COLORS = {"standard": BLUE, "canonical": GREEN, "Gaussian": VERMILION}


def figure(results: dict[str, Any]) -> Figure:
    """Perplexity by position before and after training, loss along the training, the gap by position, and the control."""
    arms, counter = results["arms"], results["counter"]
    x, binned = bins(results["context"])
    titles = (next(iter(results["corpora"])), "Along the training", "Perplexity over the standard model's", "Control")
    drawn, (perplexity, course, ratio, control) = panels(2, 2, titles=titles)
    label = f"in-context counter, order {counter['order']}"
    dashed: dict[str, Any] = {"linestyle": "--", "linewidth": 1}
    with styled():
        for kind, color in COLORS.items():
            arm, bits = arms[kind], float(np.mean(arms[kind]["bits_per_byte"]))
            band(perplexity, x, np.exp(binned(arm["nats"])), f"{kind}, {bits:.2f} bits per byte", color)
            band(perplexity, x, np.exp(binned(arm["untrained"])), f"{kind}, untrained", color, linestyle=":")
            if "followed" in arm:
                band(course, trained_tokens(results)[1:], np.array(arm["followed"])[:, 1:], kind, color)
                course.axhline(float(np.mean(arm["followed"], axis=0)[0]), color=color, linestyle=":", linewidth=1)
        for kind in WITHOUT_IDENTITY:
            behind = binned(arms[kind]["nats"]) - binned(arms["standard"]["nats"])
            band(ratio, x, np.exp(behind), kind, COLORS[kind])
        band(perplexity, x, np.exp(binned(counter["nats"])), label, BLACK, **dashed)
        band(ratio, x, np.exp(binned(counter["nats"]) - binned(arms["standard"]["nats"])), label, BLACK, **dashed)
        band(control, x, binned(arms["Gaussian"]["nats"]), "Gaussian", VERMILION)
        band(control, x, binned(arms["Gaussian"]["averaged"]), "averaged draws", VERMILION, linestyle=":")
        if "redrawn" in arms["Gaussian"]:
            band(control, x, binned(arms["Gaussian"]["redrawn"]), "redrawn at half", BLUE)
        if "followed" in arms["Gaussian"]:
            course.axhline(float(np.mean(counter["followed"])), color=BLACK, label=label, **dashed)
            course.set_xscale("log")
        ratio.axhline(1.0, color=GREY, linewidth=1)
        perplexity.set(ylabel="perplexity", yscale="log")
        perplexity.set_ylim(top=6 * perplexity.get_ylim()[1])  # room for the legend
        course.set(ylabel="nats per token, second half", xlabel="tokens (dotted: untrained)")
        ratio.set(ylabel="ratio", yscale="log")
        control.set(ylabel="nats per token")
        for panel in (perplexity, ratio, control):
            panel.set_xlabel("position in the context")
        for panel in (perplexity, course, ratio, control):
            panel.legend(loc="upper right", fontsize=7)
    return drawn
