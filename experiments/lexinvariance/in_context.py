"""Without token identities a language model reasons better over symbols that mean nothing; embedding dropout lies between.

Huang et al. 2023 (arXiv 2305.16349), in-context reasoning and semi-lexinvariant regularisation; method card lexinvariant-lm, experiments
E and F. One model for each probability p with which a symbol's vector is random in training, p = 0 the standard and p = 1 the lexinvariant
one, all else equal; LookUp and Permutation tasks without any training on them, against the perplexity of text.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.claims import Claim, above, below, every, interval
from experiments.harness.shared_models import SharedModels
from experiments.harness.style import BLUE, GREY, PALETTE, VERMILION, band, panels, styled
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.lexinvariance import perplexity
from experiments.subjects.language_models import shared_seeds, training_mesh
from lexinv.lexinvariance.in_context import Items, Separators, chance, lookup_items, permutation_items, score
from lexinv.nn.language_model import make_logits, make_nll
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.evaluation import evaluate_by_position
from lexinv.training.streams import stream
from lexinv.validation import require

PAPER = perplexity.PAPER
TASKS = "Huang et al. 2023, in-context reasoning over symbols"
SEMI = "Huang et al. 2023, semi-lexinvariant regularisation"
REGULARISED = 0.2
"""The paper's p of the semi-lexinvariant model."""


@dataclass(frozen=True)
class TasksConfig:
    """lookups: pairs in a LookUp prompt. permutations: symbols of a tuple and demonstrations. items: of each task and seed.

    symbols: the characters to draw from; arrow, end: the two separators. All are characters of the tokenizer.
    """

    lookups: tuple[int, ...] = (2, 4, 8)
    permutations: tuple[tuple[int, int], ...] = ((2, 3), (3, 4))
    items: int = 500
    symbols: str = "abcdefghijklmnopqrstuvwxyz"
    arrow: str = ","
    end: str = "."

    def __post_init__(self):
        require(self.items >= 1, "tasks.items", self.items, "at least 1")
        require(len(self.lookups) + len(self.permutations) > 0, "tasks.lookups", self.lookups, "at least one task")
        used = (*self.symbols, self.arrow, self.end)
        require(len(set(used)) == len(used), "tasks.symbols", self.symbols, "each once, without arrow and end")


@dataclass(frozen=True)
class Config:
    """shares: the probabilities p, with 0 and 1."""

    model: TransformerConfig
    training: Training
    data: perplexity.DataConfig = perplexity.DataConfig()
    tasks: TasksConfig = TasksConfig()
    evaluation: perplexity.EvaluationConfig = perplexity.EvaluationConfig()
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 1.0)

    def __post_init__(self):
        require(
            {0.0, 1.0} <= set(self.shares) and all(0 <= p <= 1 for p in self.shares),
            "shares",
            self.shares,
            "probabilities, 0 and 1 among them",
        )
        require(list(self.shares) == sorted(set(self.shares)), "shares", self.shares, "ascending, each once")
        self.as_perplexity()

    def as_perplexity(self) -> perplexity.Config:
        """What the text half of the experiment is to the experiment on perplexity, with its checks."""
        return perplexity.Config(self.data, self.model, self.training, self.evaluation)


MODEL = replace(perplexity.SUFFIX_MATCH, width=256, mlp_width=256)
TRAINING = Training(steps=150, seeds=(0, 1, 2), optimizer=perplexity.MUON, microbatches=2)
PRESETS = {
    "smoke": Config(
        replace(MODEL, width=32, mlp_width=32),
        Training(steps=8, batch_size=4, seeds=(0, 1, 2), optimizer=replace(perplexity.MUON, warmup_steps=2)),
        perplexity.DataConfig(context=64),
        TasksConfig(lookups=(2,), permutations=((2, 1),), items=20),
        perplexity.EvaluationConfig(windows=8, batch_size=8),
        shares=(0.0, 0.2, 1.0),
    ),
    "quick": Config(MODEL, TRAINING, shares=(0.0, 0.2, 1.0)),
    "cpu": Config(MODEL, TRAINING),
    "paper": Config(
        perplexity.PAPER_CONFIG.model,
        perplexity.PAPER_CONFIG.training,
        perplexity.PAPER_CONFIG.data,
        TasksConfig(lookups=(2, 4, 8, 16), arrow=">", end=";"),
        perplexity.PAPER_CONFIG.evaluation,
    ),
}


def lexicon(share: float) -> LexiconConfig:
    """How the lexica of training are drawn."""
    return LexiconConfig("lexinvariant") if share == 1 else LexiconConfig("semi", p_random=share)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Nats per token of text by position, and accuracies on every task, by share and seed."""
    training_mesh(config.training, config.model)  # refuses one that does not fit before anything is compiled
    text = perplexity.prepare(config.data.corpora[0], config.as_perplexity())
    fingerprints = workspace.pinned("corpora", {text.name: text.fingerprint})
    tasks = [draw_tasks(config, text, seed) for seed in config.training.seeds]
    return {
        "corpora": fingerprints,
        "seeds": list(config.training.seeds),
        "shares": list(config.shares),
        "context": config.data.context,
        "chance": {name: chance(items) for name, items in tasks[0].items()},
        "arms": {
            f"{share:g}": workspace.cached(
                f"shares/{share:g}", lambda share=share: measure(share, text, tasks, config, workspace)
            )
            for share in config.shares
        },
    }


def train(
    share: float,
    text: perplexity.Text,
    data: perplexity.DataConfig,
    model: TransformerConfig,
    training: Training,
    workspace: Workspace,
) -> SharedModels:
    """The models of one share, one for each seed; `lexinvariance/semi` and `lexinvariance/decipher` ask the same ones."""
    identity = {"fingerprint": text.fingerprint, **asdict(data)}
    return shared_seeds(identity, model, lexicon(share), text.vocab, text.train, training, workspace)


def draw_tasks(config: Config, text: perplexity.Text, seed: int) -> dict[str, Items]:
    """The items of one seed, the same for all models. Raises `InvalidConfig` for characters that the tokenizer does not keep."""
    tasks = config.tasks
    ids = {}
    for character in (*tasks.symbols, tasks.arrow, tasks.end):
        encoded = text.tokenizer.encode(character).tolist()
        kept = len(encoded) == 1 and text.tokenizer.decode(encoded) == character
        require(kept, "tasks.symbols", character, f"characters that are one token of {config.data.tokenizer!r}")
        ids[character] = encoded[0]
    symbols = jnp.array([ids[character] for character in tasks.symbols], jnp.int32)
    common = symbols, Separators(ids[tasks.arrow], ids[tasks.end]), text.vocab
    key, count = jax.random.key(seed), tasks.items
    drawn = {
        f"lookup {pairs}": lookup_items(stream(key, f"lookup-{pairs}"), *common, pairs=pairs, count=count)
        for pairs in tasks.lookups
    }
    for length, shown in tasks.permutations:
        rng = stream(key, f"permutation-{length}-{shown}")
        items = permutation_items(rng, *common, length=length, demonstrations=shown, count=count)
        drawn[f"permutation {length}, {shown}"] = items
    return drawn


def measure(
    share: float, text: perplexity.Text, tasks: list[dict[str, Items]], config: Config, workspace: Workspace
) -> dict[str, Any]:
    """Train one model per seed and evaluate it: nothing is random in its embeddings any more, unless everything was (p = 1)."""
    models = train(share, text, config.data, config.model, config.training, workspace)
    params, size = models.params, config.evaluation.batch_size
    tested = lexicon(share) if share == 1 else LexiconConfig("standard")
    nll, logits = (make(config.model, tested, text.vocab) for make in (make_nll, make_logits))
    key = jax.random.key(0)
    nats = [
        evaluate_by_position(nll, tree, windows, key, size) for tree, windows in zip(params, text.held_out, strict=True)
    ]
    accuracy: dict[str, Any] = {}
    compiled = jax.jit(logits)
    for name in tasks[0]:
        scores = []
        for tree, drawn_tasks in zip(params, tasks, strict=True):
            items = drawn_tasks[name]
            batch = {"tokens": items.tokens, "row": jnp.arange(len(items.tokens))}
            judged = score(compiled(tree, batch, key), items)
            scores.append([float(jnp.mean(judged.whole.all(axis=1))), float(jnp.mean(judged.prompt.all(axis=1)))])
        whole, prompt = zip(*scores, strict=True)
        accuracy[name] = {"whole": whole, "prompt": prompt}
    return {"nats": perplexity.by_position(nats), "accuracy": accuracy, **models.origin}


def accuracies(results: dict[str, Any], share: float, scoring: str) -> np.ndarray:
    """Mean over the tasks, per seed."""
    return np.mean([task[scoring] for task in results["arms"][f"{share:g}"]["accuracy"].values()], axis=0)


def late(results: dict[str, Any], share: float) -> np.ndarray:
    """Nats per token of text in the second half of the context, per seed."""
    nats = np.array(results["arms"][f"{share:g}"]["nats"])
    return nats[:, results["context"] // 2 :].mean(axis=1)


def claims(results: dict[str, Any]) -> list[Claim]:
    """The paper's orderings."""
    scorings = ("whole", "prompt")
    gained = {s: interval(accuracies(results, 1.0, s) - accuracies(results, 0.0, s)) for s in scorings}
    verdicts = [above(difference, 0.0) for difference in gained.values()]
    ratios = {
        s: interval(accuracies(results, 1.0, s) / np.maximum(accuracies(results, 0.0, s), 1e-3)) for s in scorings
    }
    guessed = float(np.mean(list(results["chance"].values())))
    standard = interval(accuracies(results, 0.0, "prompt") - guessed)
    judged = [
        Claim(
            "lexinvariant_above_standard",
            "The lexinvariant model solves more LookUp and Permutation items than the standard one (measured: difference of accuracies, "
            "among the whole vocabulary and among the prompt's symbols)",
            TASKS,
            None,
            gained,
            "both whole intervals above 0",
            every(verdicts),
        ),
        Claim(
            "lexinvariant_twice_as_accurate",
            "It is at least twice as accurate among the whole vocabulary (measured: ratios of mean accuracies)",
            f"{TASKS}; threshold of the method card",
            "4x on average (150M parameters)",
            ratios,
            "whole interval of the ratio among the whole vocabulary above 2",
            above(ratios["whole"], 2.0),
        ),
        Claim(
            "standard_near_chance",
            "The standard model is near or below chance among the prompt's symbols (measured: accuracy above chance)",
            "method card lexinvariant-lm, experiment E",
            None,
            standard,
            "whole interval below 0.05",
            below(standard, 0.05),
        ),
    ]
    if REGULARISED in results["shares"]:
        better = interval(accuracies(results, REGULARISED, "whole") - accuracies(results, 0.0, "whole"))
        dearer = interval(late(results, REGULARISED) - late(results, 0.0))
        judged += [
            Claim(
                "semi_above_standard",
                f"A standard model trained with a share {REGULARISED} of random embeddings solves more items than without.",
                SEMI,
                "+25 % on a BIG-bench subset (150M parameters)",
                better,
                "whole interval of the difference above 0",
                above(better, 0.0),
            ),
            Claim(
                "semi_costs_little",
                "That costs it less than 0.1 nats per token of text without random embeddings at test time (measured: added nats; beside "
                "them what the lexinvariant model adds).",
                f"{SEMI}; method card lexinvariant-lm, experiment F",
                None,
                {"semi": dearer, "lexinvariant": interval(late(results, 1.0) - late(results, 0.0))},
                "whole interval of the added nats below 0.1",
                below(dearer, 0.1),
            ),
        ]
    return judged


def figure(results: dict[str, Any]) -> Figure:
    """Accuracy by task and share with chance, and the trade-off between text and tasks."""
    shares, tasks = results["shares"], list(results["chance"])
    drawn, (whole, prompt, trade) = panels(1, 3, width=4.2, height=3.4)
    with styled():
        for axes, scoring, title in (
            (whole, "whole", "Among the whole vocabulary"),
            (prompt, "prompt", "Among the prompt's symbols"),
        ):
            for name, color in zip(tasks, PALETTE, strict=False):
                rows = np.transpose([results["arms"][f"{p:g}"]["accuracy"][name][scoring] for p in shares])
                band(axes, shares, rows, name, color, marker="o", markersize=3)
                if scoring == "prompt":
                    axes.axhline(results["chance"][name], color=color, linewidth=0.8, linestyle=":")
            axes.set(
                title=title, xlabel="share of random embeddings in training, p", ylabel="accuracy", ylim=(-0.02, 1.02)
            )
            axes.legend()
        prompt.annotate("dotted: chance", (0.97, 0.03), xycoords="axes fraction", ha="right", fontsize=7)
        nats = [late(results, p).mean() for p in shares]
        for scoring, label, color in (("whole", "whole vocabulary", VERMILION), ("prompt", "prompt's symbols", BLUE)):
            values = [interval(accuracies(results, p, scoring)) for p in shares]
            means = [value.mean for value in values]
            errors = [value.mean - (value.mean if value.low is None else value.low) for value in values]
            trade.errorbar(nats, means, yerr=errors, color=color, marker="o", markersize=4, label=label, capsize=2)
        for p, x, y in zip(shares, nats, [accuracies(results, p, "whole").mean() for p in shares], strict=True):
            trade.annotate(f"{p:g}", (x, y), xytext=(4, -9), textcoords="offset points", fontsize=7, color=GREY)
        trade.set(title="Text against tasks", xlabel="nats per token of text, second half", ylabel="mean accuracy")
        trade.legend(loc="lower right")
    return drawn
