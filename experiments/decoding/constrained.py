"""What a constraint costs and what it distorts: a few tokens tested in place of all, and particles in place of local decoding.

Lipkin et al. 2025 (arXiv 2504.05410), method card adaptive-weighted-rejection-sampling. One step with known Z, from 50 to 131,072 tokens; a
Markov chain under an automaton, whose posterior is exact; dialogues with exact grammars at four ages of a model; a model of Python's source
under Python's parser; and SmolLM2, asked for JSON and Python. All seven methods get equally many particles.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import bars
from experiments.harness.presets import presets
from experiments.harness.style import PALETTE, panels, reference
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.constraints import ChainConfig, StepConfig, measure_chain, measure_dialogues, measure_step
from experiments.subjects.dialogue_models import TINY, DialogueModels, DialogueWorld
from experiments.subjects.parsed_texts import ask_model, write_python
from experiments.subjects.text_pair import TINY as TINY_PAIR
from experiments.subjects.text_pair import PairConfig
from lexinv.validation import Checked, Count, Counts, Seeds

PAPERS = ("lipkin2025fast",)
PAPER, OVERVIEW = "lipkin2025fast: abstract", "lipkin2025fast: a third party's overview"
EACH = ("lm", "verify", "twisted-smc", "lcd", "ars", "mask-smc", "awrs-smc")
EQUAL = 32
"""Particles of all seven methods."""


@dataclass(frozen=True)
class Config(Checked):
    """seeds: of draws. particles: of local and of weighted decoding of the chain. problems: of dialogues. count: particles of each, and of
    `written` tokens under Python's parser. pretrained: an asset with a chat model, or `untrained`; asked: how many prompts, for answers of
    `answered` tokens.
    """

    seeds: Seeds = (0, 1, 2, 3, 4)
    step: StepConfig = StepConfig()
    chain: ChainConfig = ChainConfig()
    particles: Counts = (8, EQUAL, 512)
    dialogues: DialogueModels = DialogueModels()
    problems: Count = 32
    count: Count = 10
    pair: PairConfig = PairConfig()
    written: Count = 48
    pretrained: str = "smollm2"
    asked: Count = 24
    answered: Count = 64


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        **TINY_PAIR,
        "seeds": (0, 1),
        "step": StepConfig((50, 128), (0.1, 0.9), 200),
        "chain": ChainConfig(6, 3, 4, 4),
        "particles": (8, EQUAL),
        "problems": 2,
        "count": 2,
        "written": 6,
        "pretrained": "untrained",
        "asked": 2,
        "answered": 4,
    },
    quick={"seeds": (0, 1), "dialogues.training.seeds": (0,), "pair.training.seeds": (0,), "asked": 4},
    paper={
        "seeds": tuple(range(20)),
        "step.draws": 200_000,
        "chain.runs": 500,
        "problems": 500,
        "written": 128,
        "answered": 128,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Arms of one step, of the chain, and of dialogues by seed; and what was asked of parsers, by seed and by prompt."""
    steps = [f"V-{vocab}" for vocab in config.step.vocabularies]
    chains = [f"{name}-{EQUAL}" for name in EACH]
    chains += [f"{name}-{n}" for name in ("lcd", "awrs-smc") for n in config.particles if n != EQUAL]
    arms = measured(workspace, [*steps, "peaked"], config.seeds, partial(measure_step, config.step))
    arms |= measured(workspace, chains, config.seeds, partial(measure_chain, config.chain))
    subject, trained = DialogueWorld(config.dialogues, workspace), config.dialogues.training
    ages = [f"age-{step}" for step in (*config.dialogues.ages, trained.steps)]
    arms |= measured(workspace, ages, trained.seeds, partial(measure_dialogues, subject, config.problems, config.count))
    python, corpus = write_python(config.pair, config.count, config.written, workspace)
    corpora = workspace.pinned("corpora", {config.pair.data.corpora[0]: corpus})
    return {
        "seeds": config.seeds,
        "corpora": corpora,
        "vocabularies": config.step.vocabularies,
        "ages": ages,
        "particles": config.particles,
        "arms": arms,
        "python": [row["tested"] / row["draws"] for row in python.values()],
        "asked": ask_model(config.pretrained, config.asked, 4, config.answered, workspace),
    }


def claims(results: dict[str, Any]) -> list[Claim]:
    """Of the paper, and two of its code's text: thresholds were fixed before the record."""
    arms, ages, asked = Arms(results), results["ages"], results["asked"]
    small, most = f"V-{results['vocabularies'][0]}", results["particles"][-1]
    measured_at = {vocab: f"V-{vocab}" for vocab in results["vocabularies"]}
    wide = measured_at.get(32_768, f"V-{results['vocabularies'][-1]}")
    vocab, often = int(wide.split("-")[1]), arms[wide, "z"] >= 0.09
    fewer = vocab / np.where(often, arms[wide, "recursive tests"], 0).max(axis=1)
    local, repaired = arms[f"lcd-{EQUAL}", "tv"], arms[f"awrs-smc-{EQUAL}", "tv"]
    least = results["particles"][0]
    tested, tokens = np.array(asked["tested"]), np.array(asked["draws"])
    ended = max(sum(asked["ended"]), 1)
    return [
        Claim(
            "weights_unbiased",
            "The weight of a draw is an unbiased estimate of the local normaliser.",
            PAPER,
            {
                "recursive": arms[small, "recursive"].mean(axis=1),
                "geometric": arms[small, "geometric"].mean(axis=1),
            },
            between(0.98, 1.02),
            "mean w / Z over five values of Z, 50 tokens",
        ),
        Claim(
            "below_rejection",
            "Rejection without replacement tests no more tokens than with it, which tests 1/Z.",
            PAPER,
            {name: (arms[name, "ars"] * arms[name, "z"]).mean(axis=1) for name in measured_at.values()},
            below(1.01),
            "tests x Z, mean over Z",
        ),
        Claim(
            "fifty_times_fewer",
            "Far fewer tests than the whole vocabulary, for an exact local draw and its weight.",
            OVERVIEW,
            {f"{vocab} tokens, Z from 0.1": fewer},
            above(50),
            "vocabulary over tests per token, the least over Z",
            published="over 50 times faster",
        ),
        Claim(
            "masking_distorts",
            "Decoding under local constraints distorts the distribution over texts, and weights repair it at equal particles.",
            PAPER,
            {"ratio": local / repaired},
            above(1.5),
            f"total variation to the posterior, local over weighted, {EQUAL} particles",
        ),
        Claim(
            "particles_repair",
            "More particles come nearer to the posterior; for local decoding they do not.",
            PAPER,
            {
                "weighted": arms[f"awrs-smc-{most}", "tv"] / arms[f"awrs-smc-{least}", "tv"],
                "local": arms[f"lcd-{most}", "tv"] / arms[f"lcd-{least}", "tv"],
            },
            {"weighted": below(0.5), "local": above(0.5)},
            f"total variation, {most} particles over {least}",
        ),
        Claim(
            "partition_unbiased",
            "The mean weight of particles is an unbiased estimate of the mass of all allowed texts.",
            PAPER,
            {"estimate over Z": arms[f"awrs-smc-{most}", "evidence"]},
            between(0.9, 1.1),
            "mean over runs",
        ),
        Claim(
            "better_models_gain_more",
            "The better the model, the fewer tests.",
            PAPER,
            {
                "Spearman": rank_correlations(
                    *(np.array([arms[age, name] for age in ages]) for name in ("loss", "tests"))
                )
            },
            above(0.8),
            "of loss and tests per token over the ages of a model",
            over="models",
        ),
        Claim(
            "parser_rarely_asked",
            "A black box, Python's parser, is asked about few of 2,048 tokens.",
            PAPER,
            {"tests": np.array(results["python"])},
            below(20),
            "tests per token",
            over="models",
        ),
        Claim(
            "switch_costs_variance",
            "Where one token has more than 2/3 the released code changes to the geometric estimator, whose weights vary more.",
            "lipkin2025fast: released code",
            {"geometric over recursive": (arms["peaked", "geometric sd"] / arms["peaked", "recursive sd"])[:, 0]},
            above(1.5),
            "standard deviation of w",
        ),
        Claim(
            "discarded_mass_biased",
            "Giving up once half of the mass is rejected biases the weights.",
            OURS,
            {"missing": 1 - arms[small, "given up"].mean(axis=1)},
            above(0.05),
            "of w / Z, mean over Z",
        ),
        Claim(
            "real_valid",
            "What SmolLM2 ends under a parser is valid, by the parser.",
            PAPER,
            {"valid": sum(asked["valid"]) / ended},
            above(0.999),
            f"share of {ended} texts that ended",
        ),
        Claim(
            "real_fifty_times_fewer",
            "SmolLM2's parsers are asked about less than a fiftieth of its tokens.",
            OVERVIEW,
            {"tokens over tests": asked["vocab"] * tokens / tested},
            above(50),
            "vocabulary over tests per token",
            published="over 50 times faster",
            over="prompts",
        ),
    ]


def rank_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's, of each column of [n, seeds]."""
    from scipy.stats import rankdata

    return np.array([np.corrcoef(rankdata(one), rankdata(other))[0, 1] for one, other in zip(x.T, y.T, strict=True)])


def figure(results: dict[str, Any]) -> Figure:
    """Tests over 1/Z of every vocabulary under masking; distance to the posterior of all methods; ages of a model."""
    arms = Arms(results)
    titles = ("One token", f"Texts, {EQUAL} particles", "A model as it learns")
    drawn, (tests, distance, ages) = panels(columns=3, width=3.9, titles=titles)
    for vocab, color in zip(results["vocabularies"], PALETTE, strict=False):
        rows = {name: arms[f"V-{vocab}", name] for name in ("z", "ars", "recursive tests")}
        x = 1 / rows["z"].mean(axis=0)
        tests.axhline(vocab, color=color, linestyle="--", linewidth=1.0)
        for name, marker in (("recursive tests", "o-"), ("ars", "x:")):
            values = rows[name]
            label = f"{vocab:,} tokens" if name == "recursive tests" else None
            tests.plot(x, values.mean(axis=0), marker, color=color, markersize=3.5, label=label)
            tests.vlines(x, values.min(axis=0), values.max(axis=0), color=color, linewidth=0.8, alpha=0.6)
    tests.plot(x, x, color="black", linewidth=0.9, label="with replacement, 1/Z")
    top = 300 * max(results["vocabularies"])
    tests.set(xscale="log", yscale="log", ylim=(0.7, top), xlabel="1/Z", ylabel="tokens tested (masking: dashed)")
    tests.legend(fontsize=7, loc="upper left", ncols=2)
    values = np.stack([arms[f"{name}-{EQUAL}", "tv"] for name in EACH], axis=1)
    bars(distance, EACH, {"tv": ("", values)})
    distance.set_ylabel("total variation to the posterior")
    distance.tick_params(axis="x", rotation=45)
    for index, color in zip(range(len(arms[results["ages"][0], "loss"])), PALETTE, strict=False):
        path = np.array([[arms[age, name][index] for name in ("loss", "tests")] for age in results["ages"]])
        ages.plot(*path.T, "o-", color=color, markersize=3.5, label=f"seed {index}")
    reference(ages, 1, "at least one test")
    ages.set(xscale="log", yscale="log", xlabel="nats per token of worked texts", ylabel="tokens tested")
    ages.legend(fontsize=7)
    return drawn
