"""Judges of code against overlap with a reference: which follows what running it says, and how tau and AUC disagree about that.

Zhuo 2024 (ICE-Score, arXiv 2304.14317); method card llm-code-evaluators. Candidates of composed list functions, right or wrong by running
them, each written half differently from the reference, right or wrong. A small judge learns to score them and is asked about compositions
that it has not seen; SmolLM2-135M, which is not trained, is asked about HumanEval. The paper averages Kendall's tau over problems and drops
those where a judge says the same of all candidates: simulated judges with the published shares show what that does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import GREY, panels
from experiments.harness.training import Training, train
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.code_scores import AskedModel, TrainedJudge, agreement, overlaps
from experiments.subjects.human_eval import human_eval
from experiments.subjects.list_functions import Problem, problems
from experiments.subjects.pretrained_language_model import open_pretrained
from lexinv.decoding.judges import BEST, expected_score, meta_evaluation, parse_score
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Fraction, Positive, Seeds

PAPERS = ("zhuo2024ice",)
ARMS = {
    "judge": "judge, expected score",
    "judge_reference": "judge with the reference",
    "judge_shuffled": "judge with another's reference",
    "written": "judge, likeliest score",
    "seen": "judge, compositions seen",
    "bleu": "BLEU",
    "chrf": "chrF",
    "short": "the shorter, the better",
}
REAL = {
    "real": "SmolLM2",
    "real_reference": "SmolLM2 with the reference",
    "real_written": "SmolLM2, likeliest score",
    "real_bleu": "BLEU, HumanEval",
    "real_chrf": "chrF, HumanEval",
}
SIMULATED = {"simulated_coarse": "simulated, two scores", "simulated_fine": "simulated, fine"}
INFORMATIVE, CONSTANT, PASSING = 138, 29 / 138, 0.42
BEST_OF_WRONG, BEST_OF_RIGHT, APART = 0.715, 0.949, 0.742
"""Of the published Python file, by the card: informative problems, those of which the judge says the same of all candidates, what passes;
what of wrong and of right code has the highest score; and how many deviations apart a normal score has them that has BLEU's AUC, 0.70."""


@dataclass(frozen=True)
class Config(Checked):
    """length: steps of a composition. problems: drawn by seed, of which `held` are not trained on; kept: see `problems`.

    real: the asset or folder of a language model that is asked about `tasks` of HumanEval with `each` right and as many wrong candidates;
    "none" for no such model. most: characters of a task and its solution. simulations: of judges.
    """

    length: Count = 3
    problems: Count = 500
    candidates: Count = 20
    kept: Fraction = 0.5
    held: Count = 40
    depth: Count = 2
    width: Count = 64
    steps: Count = 1500
    batch_size: Count = 32
    learning_rate: Positive = 1e-2
    real: str = "smollm2"
    tasks: Count = 16
    each: Count = 3
    most: Count = 900
    simulations: Count = 10
    seeds: Seeds = (0, 1, 2)

    def checks(self):
        yield self.length >= 2, "length", "at least 2"
        yield self.candidates >= 2, "candidates", "at least 2, a right and a wrong one"
        yield self.held <= self.problems // 3, "held", f"at most a third of problems = {self.problems}"
        yield self.steps % 10 == 0, "steps", "a multiple of 10"


PRESETS = presets(
    Config(),
    smoke={
        "length": 2,
        "problems": 40,
        "candidates": 6,
        "held": 10,
        "depth": 1,
        "width": 16,
        "steps": 20,
        "batch_size": 8,
        "real": "none",
        "simulations": 3,
        "seeds": (0, 1),
    },
    paper={
        "length": 4,
        "problems": 5000,
        "depth": 6,
        "width": 256,
        "steps": 20_000,
        "learning_rate": 3e-3,
        "real": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "tasks": 160,
        "each": 10,
        "most": 4000,
        "simulations": 100,
        "seeds": tuple(range(5)),
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm and seed: mean AUC, mean tau with undefined problems dropped and as 0, and their share; of the real model by task."""
    worlds = {
        seed: problems(config.length, config.problems, config.candidates, seed, config.kept) for seed in config.seeds
    }
    judge = TrainedJudge(config.length, config.depth, config.width)
    optimizer = OptimizerConfig("muon", learning_rate=config.learning_rate, warmup_steps=min(50, config.steps // 5))
    training = Training(config.steps, config.batch_size, config.seeds, optimizer, steps_per_dispatch=10)
    known = {seed: world[config.held :] for seed, world in worlds.items()}
    trained = train(
        "code_judges", judge.start, judge.loss, partial(judge.batches, known, training), training, workspace
    )
    rows = [asked(config, judge, params, worlds[seed]) for params, seed in zip(trained, config.seeds, strict=True)]
    arms = {arm: by_metric([row[arm] for row in rows]) for arm in ARMS}
    simulated = [simulate(seed) for seed in range(config.simulations)]
    arms |= {kind: by_metric([row[kind] for row in simulated]) for kind in SIMULATED}
    found = {} if config.real == "none" else workspace.cached("real", lambda: real(config, workspace))
    return {"corpora": {}, "seeds": config.seeds, "real": found.get("unparsed"), "arms": arms | found.get("arms", {})}


def asked(config: Config, judge: TrainedJudge, params: Any, world: Sequence[Problem]) -> dict[str, dict[str, Any]]:
    """By arm, on the problems that are held out; `seen` on as many others."""
    read = jax.jit(judge.log_probs)
    held, known = world[: config.held], world[config.held : 2 * config.held]

    def scores(given: Sequence[Problem], references: Sequence[str]) -> np.ndarray:
        prompts = [
            [judge.read(problem.words, text, reference) for text in problem.candidates]
            for problem, reference in zip(given, references, strict=True)
        ]
        return np.stack([np.asarray(read(params, np.array(row, np.int32))) for row in prompts])

    right = [problem.reference for problem in held]
    plain = scores(held, [""] * len(held))
    found = {
        "judge": expected_score(plain),
        "judge_reference": expected_score(scores(held, right)),
        "judge_shuffled": expected_score(scores(held, [*right[1:], right[0]])),
        "written": np.argmax(plain, axis=2),
        **overlaps(held),
    }
    gold, seen = (np.array([p.right for p in part], np.float64) for part in (held, known))
    rows = {arm: agreement(gold, np.asarray(values)) for arm, values in found.items()}
    return rows | {"seen": agreement(seen, np.asarray(expected_score(scores(known, [""] * len(known)))))}


def simulate(seed: int) -> dict[str, dict[str, Any]]:
    """A coarse judge of two scores, the same for all candidates of some problems, and a fine score, with the published shares."""
    random = np.random.default_rng(seed)
    gold = random.random((INFORMATIVE, 20)) < PASSING
    best = random.random(gold.shape) < np.where(gold, BEST_OF_RIGHT, BEST_OF_WRONG)
    constant = random.random((INFORMATIVE, 1)) < CONSTANT
    fine = APART * gold + random.normal(size=gold.shape)
    coarse = np.where(constant | best, BEST, BEST - 1)
    return {name: agreement(gold.astype(float), values) for name, values in zip(SIMULATED, (coarse, fine), strict=True)}


def real(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm and task of HumanEval its AUC, and the share of answers without a score."""
    given = human_eval(config.tasks, config.each, config.most, 0, workspace)
    model = AskedModel(open_pretrained(config.real, workspace))
    plain, said = model.ask(given, referred=False)
    referred, _ = model.ask(given, referred=True)
    unparsed = np.mean(np.isnan([[parse_score(text) for text in row] for row in said]))
    found = {
        "real": np.asarray(expected_score(plain)),
        "real_reference": np.asarray(expected_score(referred)),
        "real_written": np.argmax(plain, axis=2),
        **{f"real_{name}": scores for name, scores in overlaps(given).items() if name != "short"},
    }
    gold, rows = np.array([problem.right for problem in given], np.float64), {}
    for arm, scores in found.items():
        by_task = meta_evaluation(gold, scores, "zero")
        rows[arm] = {name: getattr(by_task, name).round(5).tolist() for name in ("auc", "tau")}
        rows[arm]["undefined"] = by_task.undefined.astype(int).tolist()
    return {"arms": rows, "unparsed": round(float(unparsed), 4)}


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """The trained judge against overlap and its controls, what dropping and ties do, and the real model."""
    arms, table = Arms(results), "zhuo2024ice: tables on HumanEval-X"

    def less(arm: str, other: str, metric: str = "auc") -> np.ndarray:
        return arms[arm, metric] - arms[other, metric]

    def flattered(arm: str) -> np.ndarray:
        return arms[arm, "tau"] - arms[arm, "tau_zero"]

    reanalysed = "AUC 0.60 without and 0.68 with the reference, BLEU 0.70 (re-analysis of the published Python file)"
    pairs = {"trained": ("written", "judge"), "simulated": ("simulated_coarse", "simulated_fine")}
    orders = {f"{name}, tau": less(*pair, "tau") for name, pair in pairs.items()}
    orders |= {f"{name}, AUC": less(*pair) for name, pair in pairs.items()}
    found = [
        Claim(
            "judge_beats_overlap",
            "A judge that sees no reference tells right from wrong code better than BLEU against the reference.",
            table,
            {"held-out compositions": less("judge", "bleu")},
            above(0.1),
            "AUC less BLEU's",
            reanalysed,
        ),
        Claim(
            "reference_helps",
            "It does so better where it sees the reference.",
            table,
            {"held-out compositions": less("judge_reference", "judge")},
            above(0),
            "AUC less that without the reference",
            "tau 0.330 with and 0.336 without; pooled 0.409 and 0.313",
        ),
        Claim(
            "shuffled_reference_hurts",
            "The reference of another problem takes that away: the judge reads it.",
            OURS,
            {"held-out compositions": less("judge_reference", "judge_shuffled")},
            above(0),
            "AUC less that with another problem's reference",
        ),
        Claim(
            "dropping_flatters",
            "Dropping the problems of which a judge says the same of all candidates raises its tau.",
            OURS,
            {"trained, likeliest score": flattered("written"), "simulated": flattered("simulated_coarse")},
            above(0.05),
            "tau with them dropped less tau with them as 0",
            "0.279 against 0.220 (re-analysis of the published Python file)",
        ),
        Claim(
            "orders_disagree",
            "Of two scores the coarser has the higher tau and the lower AUC: the comparison decides which is called better.",
            OURS,
            orders,
            {name: above(0) if name.endswith("tau") else below(0) for name in orders},
            "coarse less fine",
            "judge over BLEU in tau, 0.279 and 0.251; under it in AUC, 0.60 and 0.70",
        ),
    ]
    if "real" not in arms:
        return found
    task, arms_asked = "tasks of HumanEval", {"real": "without reference", "real_reference": "with reference"}
    return [
        *found,
        Claim(
            "real_judge_above_chance",
            "SmolLM2-135M tells right solutions of HumanEval from wrong ones better than chance.",
            "zhuo2024ice: abstract, of GPT-3.5",
            {label: arms[arm, "auc"] - 0.5 for arm, label in arms_asked.items()},
            above(0),
            "AUC less 0.5",
            reanalysed,
            task,
        ),
        Claim(
            "real_judge_beats_overlap",
            "It does so better than BLEU against the published solution.",
            table,
            {label: less(arm, "real_bleu") for arm, label in arms_asked.items()},
            above(0),
            "AUC less BLEU's",
            reanalysed,
            task,
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """Tau beside AUC: of the trained judge and overlap over seeds, of simulated judges, of the real model over tasks."""
    arms = Arms(results)
    labels = ARMS | SIMULATED | REAL
    titles = ("Kendall's tau-b, undefined dropped", "AUC")
    drawn, axes = panels(columns=2, width=5.2, height=4.6, titles=titles)
    for panel, metric, chance in zip(axes, ("tau", "auc"), (0.0, 0.5), strict=True):
        dots(panel, {label: arms[arm, metric] for arm, label in labels.items() if arm in arms})
        panel.axvline(chance, color=GREY, linestyle="--", linewidth=1.0)
        panel.set_xlabel("mean and 95 % interval over seeds, simulations, or tasks")
    axes[1].set_yticklabels([])
    return drawn
