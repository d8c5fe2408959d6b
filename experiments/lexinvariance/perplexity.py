"""A lexinvariant language model closes most of the gap to a standard one within a context of real text.

Huang et al. 2023 (arXiv 2305.16349), perplexity against position; method card lexinvariant-lm, experiment C. Both models have the same
Transformer, data order and steps; beside them stand in-context n-gram counters, which know nothing of the language, and two controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, interval
from experiments.harness.corpora import installed, slug
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import train_seeds, training_mesh
from lexinv.data.corpora import load_corpus
from lexinv.data.tokenizers import bits_per_byte, load_tokenizer
from lexinv.data.windows import Packing, Windows, evaluation_windows, token_stream, window_source
from lexinv.lexinvariance.counters import counter_nll, tune_counter
from lexinv.nn.language_model import Batch, LanguageModel, Params, make_nll, shift_right
from lexinv.nn.lexicon import LexiconConfig, draw_lexicon, embed, readout, row_keys, token_nll
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import evaluate_by_position
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import require

PAPER = """\
@inproceedings{huang2023lexinvariant,
  title     = {Lexinvariant Language Models},
  author    = {Huang, Qian and Zelikman, Eric and Chen, Sarah Li and Wu, Yuhuai and Valiant, Gregory and Liang, Percy},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {36},
  year      = {2023},
  note      = {arXiv:2305.16349}
}"""
SOURCE = "Huang et al. 2023, perplexity against position"

STANDARD, LEXINVARIANT = LexiconConfig("standard"), LexiconConfig("lexinvariant")


@dataclass(frozen=True)
class DataConfig:
    """corpora: all claims but the comparison of corpora are about the first; a later one whose package is missing is left out."""

    corpora: tuple[str, ...] = ("python-stdlib",)
    tokenizer: str = "letters"
    context: int = 256
    packing: Packing = "stream"


@dataclass(frozen=True)
class EvaluationConfig:
    """Every seed is evaluated on `windows` held-out windows of its own, so that intervals over seeds hold the text's variation too.

    A corpus whose held-out split is too small for that gives each seed an equal share of what it has.

    draws: lexica over which the averaged prediction is taken. max_order: of the in-context counters.
    """

    windows: int = 256
    batch_size: int = 32
    draws: int = 4
    max_order: int = 4

    def __post_init__(self):
        for field in ("windows", "batch_size", "draws", "max_order"):
            require(getattr(self, field) >= 1, f"evaluation.{field}", getattr(self, field), "at least 1")


@dataclass(frozen=True)
class Config:
    """What one run trains and evaluates.

    vocab_block: see `lexinv.nn.lexicon.LexiconConfig`; for subword vocabularies.
    ablations: other initial circuits, lexinvariant, on the first corpus.
    comparison_steps: the comparison of corpora and the ablations need many models but not good ones: they all, and a pair of models beside
        the main one, are trained for so many steps. 0: as long as the main models, which then take part themselves.
    """

    data: DataConfig
    model: TransformerConfig
    training: Training
    evaluation: EvaluationConfig = EvaluationConfig()
    vocab_block: int = 0
    ablations: tuple[Literal["plain", "smear"], ...] = ()
    comparison_steps: int = 0

    def __post_init__(self):
        context = self.data.context
        require(
            context >= 32, "data.context", context, "at least 32: the claims compare positions 8 to 16 with the last 16"
        )
        require(
            context <= self.model.max_length,
            "data.context",
            context,
            f"at most model.max_length = {self.model.max_length}",
        )
        require(self.model.causal, "model.causal", self.model.causal, "True: the model predicts the next token")
        corpora = self.data.corpora
        require(
            len(corpora) > 0 and len(set(corpora)) == len(corpora), "data.corpora", corpora, "at least one, each once"
        )
        require(
            self.data.packing == "stream" or self.training.microbatches == 1,
            "training.microbatches",
            self.training.microbatches,
            "1 where data.packing pads windows: a mean over slices is not the mean over tokens",
        )
        require(self.comparison_steps >= 0, "comparison_steps", self.comparison_steps, "0 or a number of steps")
        _ = self.comparison

    @property
    def comparison(self) -> Training:
        """How the models of the comparison are trained."""
        return replace(self.training, steps=self.comparison_steps or self.training.steps)


# Wide, since the vectors of two symbols must be told apart: their similarity is noise of size 1 / sqrt(width).
SUFFIX_MATCH = TransformerConfig(
    depth=2,
    width=512,
    heads=2,
    mlp_width=512,
    positions="none",
    mixing="convolution",
    initialization="suffix_match",
    unroll=2,
)
MUON = OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=50)
PAPER_CONFIG = Config(
    data=DataConfig(("tfds:wiki40b/en",), "char", context=512),
    model=TransformerConfig(depth=12, width=1024, heads=8, mlp_width=4096, dtype="bfloat16", remat=True),
    training=Training(
        steps=250_000,
        batch_size=64,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig("adamw", learning_rate=3e-4, warmup_steps=2000, weight_decay=0.01),
        steps_per_dispatch=10,
    ),
    evaluation=EvaluationConfig(windows=1024, max_order=5),
)
PRESETS = {
    "smoke": Config(
        data=DataConfig(context=64),
        model=replace(SUFFIX_MATCH, width=32, mlp_width=64),
        training=Training(steps=8, batch_size=4, seeds=(0, 1), optimizer=replace(MUON, warmup_steps=2)),
        evaluation=EvaluationConfig(windows=8, batch_size=8, draws=2, max_order=2),
        ablations=("plain",),
    ),
    "quick": Config(
        data=DataConfig(),
        model=SUFFIX_MATCH,
        training=Training(steps=300, optimizer=MUON, microbatches=2),
        evaluation=EvaluationConfig(windows=512),
    ),
    "cpu": Config(
        data=DataConfig(("python-stdlib", "python-docs", "kjv")),
        model=SUFFIX_MATCH,
        training=Training(steps=260, seeds=(0, 1, 2), optimizer=MUON, microbatches=2),
        evaluation=EvaluationConfig(windows=512),
        ablations=("smear", "plain"),
        comparison_steps=70,
    ),
    "paper": PAPER_CONFIG,
    "paper-byte": replace(PAPER_CONFIG, data=replace(PAPER_CONFIG.data, tokenizer="byte")),
    "paper-subword": replace(PAPER_CONFIG, data=replace(PAPER_CONFIG.data, tokenizer="bpe:32000"), vocab_block=4000),
}


@dataclass(frozen=True)
class Text:
    """A corpus made ready: windows to train on, held-out windows for every seed, and the tuned counters."""

    name: str
    fingerprint: str
    vocab: int
    train: Windows
    held_out: list[np.ndarray]
    tokenizer: Any


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train and evaluate every arm; results by corpus, circuit and lexicon, nats per token by position, one row per seed."""
    seeds = config.training.seeds
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    first, *others = config.data.corpora
    texts = [prepare(corpus, config) for corpus in (first, *filter(installed, others))]
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint for text in texts})
    kinds = ("standard", "lexinvariant")
    arms = [Arm(texts[0], "main", kind, config.model, config.training) for kind in kinds]
    circuit = "comparison" if config.comparison_steps else "main"
    compared = texts if config.comparison_steps else texts[1:]
    arms += [Arm(text, circuit, kind, config.model, config.comparison) for text in compared for kind in kinds]
    arms += [
        Arm(texts[0], name, "lexinvariant", ablated(config.model, name), config.comparison) for name in config.ablations
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


@dataclass(frozen=True)
class Arm:
    """One model, trained with every seed."""

    text: Text
    circuit: str
    kind: Literal["standard", "lexinvariant"]
    model: TransformerConfig
    training: Training

    @property
    def name(self) -> str:
        return f"{slug(self.text.name)}/{self.circuit}-{self.kind}"


def ablated(model: TransformerConfig, name: str) -> TransformerConfig:
    """The same sizes without the suffix match: `plain` with rotary positions, or `smear` with smeared keys and mimetic initialisation."""
    if name == "plain":
        return replace(model, positions="rope", mixing="none", initialization="normal")
    return replace(model, mixing="smear", initialization="mimetic")


def prepare(name: str, config: Config) -> Text:
    """Load, tokenize and cut a corpus; refuses a context or a number of held-out windows that it cannot fill."""
    corpus = load_corpus(name)
    tokenizer = load_tokenizer(config.data.tokenizer, corpus)
    train, held_out = (
        window_source(token_stream(corpus, split, tokenizer), config.data.context, config.data.packing)
        for split in ("train", "test")
    )
    seeds = len(config.training.seeds)
    each = max(min(config.evaluation.windows, (len(held_out) - 1) // seeds), 1)  # the last window may be padded
    windows = evaluation_windows(held_out, seeds * each, seed=0)
    return Text(
        name, corpus.fingerprint, tokenizer.vocab_size, train, list(windows.reshape(seeds, each, -1)), tokenizer
    )


def count(text: Text, config: Config) -> dict[str, Any]:
    """The in-context counters on every seed's windows, and on the same windows with their tokens shuffled."""
    order = config.evaluation.max_order
    discounts, concentrations = tune_counter(
        evaluation_windows(text.train, config.evaluation.windows, seed=1), text.vocab, order
    )
    nats = [counter_nll(windows, text.vocab, discounts, concentrations) for windows in text.held_out]
    shuffles = [
        counter_nll(shuffled(windows), text.vocab, discounts[:1], concentrations[:1]) for windows in text.held_out
    ]
    return {
        "discounts": discounts,
        "concentrations": concentrations,
        "nats": [rounded(orders.mean(axis=1)) for orders in nats],
        "shuffled": [rounded(orders[0].mean(axis=0)) for orders in shuffles],
    }


def measure(arm: Arm, config: Config, workspace: Workspace) -> dict[str, Any]:
    """Train an arm and evaluate each seed on its own held-out windows."""
    lexicon = replace(STANDARD if arm.kind == "standard" else LEXINVARIANT, vocab_block=config.vocab_block)
    params = train_seeds(arm.name, arm.model, lexicon, arm.text.vocab, arm.text.train, arm.training, workspace)
    nll = make_nll(arm.model, lexicon, arm.text.vocab)

    def evaluated(function, rearrange=lambda windows: windows, draw: int = 0) -> list[np.ndarray]:
        size = config.evaluation.batch_size
        return [
            evaluate_by_position(function, tree, rearrange(windows), jax.random.key(draw), size)
            for tree, windows in zip(params, arm.text.held_out, strict=True)
        ]

    nats = evaluated(nll)
    result = {
        "nats": by_position(nats),
        "bits_per_byte": [
            bits_per_byte(member, windows, arm.text.tokenizer)
            for member, windows in zip(nats, arm.text.held_out, strict=True)
        ],
    }
    if arm.circuit == "main" and arm.kind == "lexinvariant":
        draws = [nats, *(evaluated(nll, draw=draw) for draw in range(1, config.evaluation.draws))]
        # The average over draws is taken of the probabilities: -log mean exp(-nats).
        averaged = [
            -np.logaddexp.reduce(-np.stack(member), axis=0) + np.log(len(draws)) for member in zip(*draws, strict=True)
        ]
        result["nats_of_averaged_draws"] = by_position(averaged)
        result["nats_shuffled"] = by_position(evaluated(nll, shuffled))
        if not config.vocab_block:
            result["nats_redrawn"] = by_position(evaluated(make_redrawn_nll(arm.model, arm.text.vocab)))
    return result


def make_redrawn_nll(model: TransformerConfig, vocab: int):
    """As `make_nll` for the lexinvariant model, but the lexicon is drawn anew in the middle of every sequence."""
    module = LanguageModel(model)

    def nll(params: Params, batch: Batch, key: Key[Array, ""]) -> Float[Array, "batch time"]:
        tokens = batch["tokens"]
        half = tokens.shape[1] // 2
        # One lexicon of twice the size: the second half of the sequence reads, and is read with, its second half.
        lexicon = draw_lexicon(LEXINVARIANT, None, row_keys(key, batch["row"]), 2 * vocab, model.width)
        later = jnp.arange(tokens.shape[1])[None] >= half
        inputs = shift_right(tokens + jnp.where(later, vocab, 0))
        features, _ = module.apply({"params": params["model"]}, inputs, embed(lexicon, inputs), method="features")
        first, second = readout(features[:, :half], lexicon[:, :vocab]), readout(features[:, half:], lexicon[:, vocab:])
        return token_nll(jnp.concatenate([first, second], axis=1), tokens)

    return nll


def shuffled(windows: np.ndarray) -> np.ndarray:
    """Each window's tokens in a random order: nothing is left to know but their frequencies."""
    return np.random.default_rng(0).permuted(windows, axis=1)


def by_position(nats: Sequence[np.ndarray]) -> list[list[float]]:
    """Mean nats at each position, a row per seed."""
    return [rounded(member.mean(axis=0)) for member in nats]


def rounded(values: np.ndarray) -> Any:
    return np.round(values.astype(np.float64), 4).tolist()


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's statements, and ours about the counters, the controls and the initial circuit, on the numbers."""
    corpus = next(iter(results["corpora"]))
    arms, counters = results["arms"][corpus], results["counters"][corpus]
    standard, lexinvariant = (np.array(arms["main"][kind]["nats"]) for kind in ("standard", "lexinvariant"))
    half = results["context"] // 2
    orders = np.array(counters["nats"])[:, :, half:].mean(axis=2)  # [seeds, orders]
    late = lexinvariant[:, half:].mean(axis=1)
    best = orders.mean(axis=0).argmin()
    remaining = remaining_gap(standard, lexinvariant)
    judged = [
        Claim(
            "gap_closes_with_position",
            "The gap in perplexity to the standard model, relative to the standard model, shrinks along the context.",
            SOURCE,
            "from 9x to under 1x by token 512 (150M parameters, the Pile)",
            interval(remaining),
            "gap over the last 16 positions at most a quarter of the gap at positions 8 to 16",
            below(interval(remaining), 0.25),
        )
    ]
    for name, label, order in (
        ("below_in_context_unigram", "in-context symbol frequencies", 0),
        ("below_in_context_bigram", "the in-context bigram counter", 1),
        ("below_best_in_context_ngram", f"the best backed-off in-context n-gram counter (order {best})", best),
    ):
        margin = interval(late - orders[:, order])
        judged.append(
            Claim(
                name,
                f"In the second half of the context the lexinvariant model is below {label}, in nats per token.",
                "method card lexinvariant-lm, experiment C (ours)",
                None,
                margin,
                "whole interval of the difference below 0",
                below(margin, 0.0),
            )
        )
    averaged = np.array(arms["main"]["lexinvariant"]["nats_of_averaged_draws"])[:, half:].mean(axis=1)
    margin = interval(averaged - orders[:, best])
    judged.append(
        Claim(
            "averaged_draws_below_best_in_context_ngram",
            "The same for the model's prediction averaged over several lexica, which is closer to its expectation over all lexica.",
            "method card lexinvariant-lm, neural model (ours)",
            None,
            margin,
            "whole interval of the difference below 0",
            below(margin, 0.0),
        )
    )
    judged.append(comparison_claim(results, corpus))
    first = interval(lexinvariant[:, 0] - np.log(results["vocab"][corpus]))
    judged.append(
        Claim(
            "first_token_is_uniform",
            "On the first token, where no lexinvariant model can know anything, the loss is ln V, in nats.",
            "method card lexinvariant-lm, tests (ours)",
            0.0,
            first,
            "whole interval of the difference within 0.02",
            None if (near := below(first, 0.02)) is None else near and bool(above(first, -0.02)),
        )
    )
    judged.append(redrawn_claim(arms["main"]["lexinvariant"], lexinvariant, half))
    shuffled_margin = interval(
        np.array(arms["main"]["lexinvariant"]["nats_shuffled"])[:, half:].mean(axis=1)
        - np.array(counters["shuffled"])[:, half:].mean(axis=1)
    )
    judged.append(
        Claim(
            "shuffled_text_gives_frequencies_only",
            "On windows with shuffled tokens the lexinvariant model gains nothing beyond in-context frequencies, in nats per token.",
            "method card lexinvariant-lm, experiment C, control (ours)",
            None,
            shuffled_margin,
            "difference to the order-0 counter in the second half above -0.05",
            above(shuffled_margin, -0.05),
        )
    )
    reference = np.array(arms[results["comparison_circuit"]]["lexinvariant"]["nats"])[:, half:].mean(axis=1)
    for name in [circuit for circuit in arms if circuit in ("plain", "smear")]:
        margin = interval(np.array(arms[name]["lexinvariant"]["nats"])[:, half:].mean(axis=1) - reference)
        judged.append(
            Claim(
                f"suffix_match_beats_{name}",
                f"At the same budget the suffix-match circuit is below the `{name}` one in the second half, in nats per token.",
                "method card lexinvariant-lm, experiment C, ablation (ours)",
                None,
                margin,
                "whole interval of the difference above 0",
                above(margin, 0.0),
            )
        )
    return judged


def remaining_gap(standard: np.ndarray, lexinvariant: np.ndarray) -> np.ndarray:
    """(ppl_lexinvariant - ppl_standard) / ppl_standard over the last 16 positions, as a share of that at positions 8 to 16; per seed."""

    def gap(positions: slice) -> np.ndarray:
        return np.expm1((lexinvariant - standard)[:, positions].mean(axis=1))

    return gap(slice(-16, None)) / gap(slice(8, 16))


def comparison_claim(results: dict[str, Any], code: str) -> Claim:
    """Whether code closes the gap faster than the prose of the record; without prose there is nothing to tell."""
    gaps = {}
    for corpus, arms in results["arms"].items():
        pair = arms.get(results["comparison_circuit"])
        gaps[corpus] = remaining_gap(*(np.array(pair[kind]["nats"]) for kind in ("standard", "lexinvariant")))
    differences = {corpus: interval(gaps[code] - gap) for corpus, gap in gaps.items() if corpus != code}
    verdicts = [below(difference, 0.0) for difference in differences.values()]
    return Claim(
        "code_closes_faster_than_prose",
        "The share of the gap that remains at the end of the context is smaller for code than for prose.",
        SOURCE,
        "code closes the gap faster than prose",
        differences,
        "whole interval of the difference below 0, for every corpus of prose",
        None if not verdicts or None in verdicts else all(verdicts),
    )


def redrawn_claim(arm: dict[str, Any], undisturbed: np.ndarray, half: int) -> Claim:
    """Whether a new lexicon in mid-sequence throws the model back."""
    loss = None
    if "nats_redrawn" in arm:
        after = slice(half, half + 8)
        loss = interval(np.array(arm["nats_redrawn"])[:, after].mean(axis=1) - undisturbed[:, after].mean(axis=1))
    return Claim(
        "redrawn_lexicon_destroys_it",
        "Drawing the lexicon anew in the middle of the sequence costs the next 8 tokens at least half a nat each.",
        "method card lexinvariant-lm, experiment C, control (ours)",
        None,
        loss,
        "whole interval of the added nats above 0.5",
        None if loss is None else above(loss, 0.5),
    )


def figure(results: dict[str, Any]) -> Figure:
    """Perplexity by position, the ratio by corpus, the initial circuits, and the controls."""
    corpus = next(iter(results["corpora"]))
    arms, counters = results["arms"][corpus], np.array(results["counters"][corpus]["nats"])
    x, binned = bins(results["context"])
    drawn, axes = panels(2, 2)
    with styled():
        perplexity, ratio, circuits, controls = axes
        for kind, label, color in (("standard", "standard", BLUE), ("lexinvariant", "lexinvariant", VERMILION)):
            bits = float(np.mean(arms["main"][kind]["bits_per_byte"]))
            label = f"{label}, {bits:.2f} bits per byte"
            band(perplexity, x, np.exp(binned(arms["main"][kind]["nats"])), label, color)
        averaged = binned(arms["main"]["lexinvariant"]["nats_of_averaged_draws"])
        band(perplexity, x, np.exp(averaged), "lexinvariant, averaged draws", VERMILION, linestyle=":")
        shades = [GREY, ORANGE, GREEN, PURPLE, SKY, BLACK]
        for order in sorted({0, 1, int(counters.mean(axis=(0, 2)).argmin())}):
            values = np.exp(binned(counters[:, order])).mean(axis=0)
            perplexity.plot(
                x, values, label=f"in-context counter, order {order}", color=shades[order], linestyle="--", linewidth=1
            )
        perplexity.set(title=corpus, ylabel="perplexity", yscale="log")
        perplexity.set_ylim(top=4 * perplexity.get_ylim()[1])  # room for the legend
        colors = (VERMILION, BLUE, GREEN, PURPLE)
        for (name, circuit_arms), color in zip(results["arms"].items(), colors, strict=False):
            pair = circuit_arms[results["comparison_circuit"]]
            band(ratio, x, np.exp(binned(pair["lexinvariant"]["nats"]) - binned(pair["standard"]["nats"])), name, color)
        if results["comparison_circuit"] != "main":
            pair = arms["main"]
            gap = binned(pair["lexinvariant"]["nats"]) - binned(pair["standard"]["nats"])
            band(ratio, x, np.exp(gap), f"{corpus}, trained longer", BLACK)
        ratio.axhline(1.0, color=GREY, linewidth=1, linestyle="--")
        ratio.set(title="Perplexity, lexinvariant over standard", ylabel="ratio")
        named = {
            "main": "suffix match",
            "comparison": "suffix match, few steps",
            "smear": "smeared keys",
            "plain": "plain",
        }
        for (name, pair), color in zip(arms.items(), (VERMILION, ORANGE, BLUE, GREEN), strict=False):
            band(circuits, x, binned(pair["lexinvariant"]["nats"]), named[name], color)
        circuits.plot(
            x, binned(counters.min(axis=1)).mean(axis=0), label="best counter", color=BLACK, linestyle="--", linewidth=1
        )
        circuits.set(title="Initial circuits, lexinvariant", ylabel="nats per token")
        main = arms["main"]["lexinvariant"]
        band(controls, x, binned(main["nats"]), "text", VERMILION)
        if "nats_redrawn" in main:
            band(controls, x, binned(main["nats_redrawn"]), "lexicon redrawn at half", BLUE)
        band(controls, x, binned(main["nats_shuffled"]), "shuffled text", GREEN)
        order_0 = binned(results["counters"][corpus]["shuffled"]).mean(axis=0)
        controls.plot(x, order_0, label="shuffled text, frequencies", color=GREY, linestyle="--", linewidth=1)
        controls.set(title="Controls", ylabel="nats per token")
        controls.set_ylim(bottom=controls.get_ylim()[0] - 0.8)
        for panel in axes:
            panel.set_xlabel("position in the context")
            panel.legend(loc="upper right" if panel is perplexity else "lower left" if panel is controls else "best")
    return drawn


def bins(context: int, width: int = 8):
    """Centres of bins of `width` positions, and the function that averages rows of nats over them."""
    count = max(context // width, 1)

    def average(rows: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
        values = np.asarray(rows)[:, : count * width]
        return values.reshape(len(values), count, -1).mean(axis=2)

    return (np.arange(count) + 0.5) * width, average
