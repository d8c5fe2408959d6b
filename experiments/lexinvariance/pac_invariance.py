"""A predictor that is nearly invariant across a few random interventions is so on unseen ones, however many variables there are.

Parulekar, Shanmugam and Shakkottai 2023 (arXiv 2205.15196), generalisation of ε-invariant representations in linear structural equation
models; method card pac-invariant-representations. Nothing is trained: all that is judged is enumerated, or the optimum of a linear program.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.curves import reached
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, band, panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, Rule, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.intervened_models import InterventionConfig, coverage, exceeded, ranks, risks
from lexinv.precision import double_precision
from lexinv.validation import Count, Counts, Distinct, Fraction, Positive

PAPERS = ("parulekar2023pac",)
KINDS = ("soft", "hard")
DASHES = "-", "--", "-.", ":"  # so that lines can be told apart that lie on one another


@dataclass(frozen=True)
class Config(InterventionConfig):
    """environments: for training, by which the share of `fresh` ones is followed whose gap may be above `factor` times that of training.

    tolerated: that share below which no more environments are needed.
    certifying: training environments of the repeated draws with exact moments; `sampled`: of those with moments from `samples` in each.
    model_variables: size of the models of these draws and of those whose risks are compared.
    shifts: strengths of the test interventions, in units of those in training.
    """

    variables: Counts = (6, 12, 25, 50)
    environments: Counts = (8, 12, 16, 24, 32, 48, 64, 96)
    fresh: Count = 50
    factor: Positive = 2.0
    tolerated: Fraction = 0.2
    model_variables: Count = 8
    certifying: Counts = (4, 8, 16, 32, 64, 128, 256)
    sampled: Count = 16
    samples: Counts = (100, 300, 1000)
    shifts: Distinct[float] = (0.0, 1.0, 2.0, 3.0, 4.0)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        least = self.smallest
        yield min(self.variables) >= least, "variables", f"sizes of at least in_degree + 4 = {least}"
        yield least <= self.model_variables <= 12, "model_variables", f"{least} to 12: all subsets are tried"
        for field in ("environments", "certifying", "samples", "epsilons"):
            yield list(getattr(self, field)) == sorted(getattr(self, field)), field, "ascending"
        yield self.environments[-1] + self.fresh <= self.drawn, "fresh", f"fewer: {self.drawn} are drawn in all"
        yield 1.0 in self.shifts, "shifts", "with 1, the strength of the training interventions"


PRESETS = presets(
    Config(),
    smoke={
        "variables": (6, 12),
        "drawn": 80,
        "environments": (12, 48),
        "fresh": 20,
        "model_variables": 6,
        "certifying": (4, 16),
        "samples": (50, 500),
        "pool": 200,
        "repetitions": 20,
        "shifts": (1.0, 3.0),
        "seeds": (0, 1, 2),
    },
    paper={
        "variables": (6, 12, 25, 50, 100, 200),
        "environments": (8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256),
        "drawn": 2000,
        "fresh": 1000,
        "model_variables": 10,
        "pool": 10_000,
        "repetitions": 1000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """All settings, each a stage of the workspace, rows by seed: ranks, shares exceeded, coverage of bounds, risks under shift."""
    from rich.progress import track

    stages: dict[str, Callable[[], Any]] = {}
    for kind in KINDS:
        for n in config.variables:
            for name, sites in (("one", 1), ("two", 2), ("all", n - 1)):
                stages[f"rank-{kind}-{name}-{n}"] = partial(ranks, config, n, sites, kind)
            given = config.environments, config.fresh, config.factor
            stages[f"exceeded-{kind}-{n}"] = partial(exceeded, config, n, kind, *given)
        stages[f"risks-{kind}"] = partial(risks, config, config.model_variables, kind, config.shifts)
    given = config.model_variables, config.certifying, config.samples, config.sampled
    stages["coverage"] = partial(coverage, config, *given)
    with double_precision():
        shown = track(stages.items(), "measuring", disable=not workspace.progress)
        done = {name: workspace.cached(name, stage) for name, stage in shown}
    copied = (
        *("variables", "in_degree", "drawn", "environments", "factor", "tolerated"),
        *("certifying", "samples", "epsilons", "delta", "shifts"),
    )
    return {"seeds": config.seeds, "corpora": {}, **{name: getattr(config, name) for name in copied}, "stages": done}


def exponents(by_size: dict[int, np.ndarray]) -> np.ndarray:
    """For each seed the slope of ln value over ln size."""
    return np.polyfit(np.log(list(by_size)), np.log(np.array(list(by_size.values()), dtype=float)), 1)[0]


def dimensions(results: dict[str, Any], kind: str, sites: str) -> dict[int, np.ndarray]:
    """What the environments span, by number of variables, per seed."""
    return {n: np.array(results["stages"][f"rank-{kind}-{sites}-{n}"]) for n in results["variables"]}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the card derives for the paper's statements."""

    def needed(kind: str, n: int) -> np.ndarray:
        rows = np.array(results["stages"][f"exceeded-{kind}-{n}"])
        return np.exp(reached(np.full(len(rows), results["tolerated"]), np.log(results["environments"]), rows))

    def growth(name: str, statement: str, source: str, by_kind: dict[str, dict[int, np.ndarray]], rule: Rule) -> Claim:
        judged = {f"exponent, {kind}": exponents(by_size) for kind, by_size in by_kind.items()}
        shown = {f"{kind}, n = {n}": values for kind, by_size in by_kind.items() for n, values in by_size.items()}
        published = "no dependence on the ambient dimension" if source != OURS else None
        rules: dict[str, Rule] = dict.fromkeys(judged, rule)
        return Claim(name, statement, source, {**judged, **shown}, rules, "exponent of n, and by n", published)

    return [
        Claim(
            "one_site_spans_a_few_dimensions",
            "With soft interventions at one variable the environments' moments span exactly in-degree + 2 dimensions, with hard ones that "
            "are there half of the time exactly 3, whatever the number of variables.",
            OURS,
            {
                f"{kind}, n = {n}": found - expected
                for kind, expected in (("soft", results["in_degree"] + 2), ("hard", 3))
                for n, found in dimensions(results, kind, "one").items()
            },
            between(-0.5, 0.5).every_seed,
            "dimensions above that",
        ),
        growth(
            "fixed_sites_rank_does_not_grow",
            "The dimensions that the environments span do not grow with the number n of variables where interventions are at two of them.",
            "parulekar2023pac: abstract",
            {kind: dimensions(results, kind, "two") for kind in KINDS},
            between(-0.15, 0.15),
        ),
        growth(
            "all_sites_rank_grows",
            "The dimensions that the environments span grow with n where interventions are at all of them.",
            OURS,
            {kind: dimensions(results, kind, "all") for kind in KINDS},
            above(0.5),
        ),
        growth(
            "fixed_sites_needed_does_not_grow",
            "The training environments that approximate invariance needs do not grow with n where interventions are at two of the "
            f"variables: those after which every predictor is, up to {results['factor']:g} ε, invariant in "
            f"{1 - results['tolerated']:.0%} of fresh environments if it is so up to ε in training.",
            "parulekar2023pac: abstract",
            {kind: {n: needed(kind, n) for n in results["variables"]} for kind in KINDS},
            between(-0.15, 0.15),
        ),
        *coverage_claims(results),
        *risk_claims(results),
    ]


def coverage_claims(results: dict[str, Any]) -> list[Claim]:
    """Whether bounds cover repeated draws of the training environments, and what samples ask for."""
    found = {name: np.array(values) for name, values in results["stages"]["coverage"].items()}
    epsilons, delta = results["epsilons"], results["delta"]
    kinds = {"exact": "covered", "from samples": "sampled_covered"}
    finest, coarsest = f"ε = {epsilons[0]:g}", f"ε = {epsilons[-1]:g}"
    return [
        Claim(
            "bound_covers",
            "The share of environments that the worst predictor violates, of all that pass as invariant in training, is within the PAC "
            f"bound in at least {1 - delta:.0%} of repeated draws of them, for each number of them and of samples in them.",
            "parulekar2023pac: abstract",
            {
                f"{kind}, ε = {epsilon:g}": found[name][:, :, i].min(axis=1)
                for kind, name in kinds.items()
                for i, epsilon in enumerate(epsilons)
            },
            above(1 - delta),
            "least share of repetitions",
            "generalization guarantees that hold probabilistically over a family of SEMs",
        ),
        Claim(
            "bound_for_one_predictor_does_not_cover",
            "The bound that holds for a single predictor does not cover the worst of all that pass.",
            OURS,
            {coarsest: found["covered_alone"][:, :, -1].min(axis=1)},
            below(1 - delta),
            "least share of repetitions",
        ),
        Claim(
            "samples_ask_for_approximate_invariance",
            f"With moments from {results['samples'][-1]} samples in each environment even the parents of the target pass in all of them "
            "only as approximately invariant.",
            "parulekar2023pac: abstract",
            {f"ε = {epsilon:g}": found["parents"][:, -1, i] for i, epsilon in enumerate(epsilons)},
            {finest: below(0.1), coarsest: above(0.9)},
            "share of repetitions in which they pass",
            "approximate invariance is the notion for finite samples",
        ),
    ]


def risk_claims(results: dict[str, Any]) -> list[Claim]:
    """Why invariance matters."""
    usual, strongest = results["shifts"].index(1.0), int(np.argmax(results["shifts"]))
    exact, unit = f"{results['epsilons'][0]:g}", "difference of the risks in units of the target's noise variance"

    def above_subset(at: int) -> dict[str, np.ndarray]:
        rows = {kind: results["stages"][f"risks-{kind}"] for kind in KINDS}
        return {kind: np.subtract(found["least squares"], found[exact])[:, at] for kind, found in rows.items()}

    return [
        Claim(
            "least_squares_wins_in_distribution",
            "On fresh environments of the training strength the risk of least squares is below that of the best subset of covariates that "
            f"is invariant up to ε = {exact}.",
            OURS,
            above_subset(usual),
            below(0),
            unit,
        ),
        Claim(
            "invariant_wins_under_shift",
            f"Under interventions {results['shifts'][strongest]:g} times as strong it is above it.",
            OURS,
            above_subset(strongest),
            above(0),
            unit,
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Ranks, shares exceeded by kind, what passes and what bounds cover, samples, and risks under shift by kind."""
    stages, sizes, epsilons, m = (results[name] for name in ("stages", "variables", "epsilons", "certifying"))
    found = {name: np.array(values) for name, values in stages["coverage"].items()}
    titles = (
        *(f"Span of {results['drawn']} environments", "Two variables, soft", "Two variables, hard"),
        *("Worst predictor that passes", "What a bound covers", "Moments from samples"),
        *("Risk, soft interventions", "Risk, hard interventions"),
    )
    drawn, axes = panels(2, 4, width=3.9, height=3.2, titles=titles)
    span, soft, hard, worst, covered, sampled, *risky = axes
    with styled():
        kinds = ((kind, sites) for kind in KINDS for sites in ("one", "two", "all"))
        for (kind, sites), color in zip(kinds, PALETTE, strict=False):
            rows = np.transpose(list(dimensions(results, kind, sites).values()))
            band(span, sizes, rows, f"{kind}, {sites}", color, linestyle="-" if kind == "soft" else "--")
        span.set(xlabel="variables n", ylabel="dimensions", xscale="log", yscale="log")
        span.set_xticks(sizes, sizes)
        span.set_xticks([], minor=True)
        for panel, kind, risk in zip((soft, hard), KINDS, risky, strict=True):
            for n, color in zip(sizes, PALETTE, strict=False):
                band(panel, results["environments"], stages[f"exceeded-{kind}-{n}"], f"n = {n}", color)
            reference(panel, results["tolerated"], "tolerated")
            panel.set(ylabel=f"fresh environments above {results['factor']:g} ε")
            for i, ((name, rows), color) in enumerate(zip(stages[f"risks-{kind}"].items(), PALETTE, strict=False)):
                label = f"invariant up to {name}" if name[0] == "0" else name
                band(risk, results["shifts"], rows, label, color, linestyle=DASHES[i % 4])
            risk.set(xlabel="strength over training", ylabel="risk over noise variance")
        for i, (epsilon, color) in enumerate(zip(epsilons, PALETTE, strict=False)):
            label, alone, parents = f"ε = {epsilon:g}", found["covered_alone"], found["parents"]
            band(worst, m, found["worst"][:, :, i], label, color)
            band(covered, m, alone[:, :, i], f"for one, {label}", color, linestyle=":")
            band(sampled, results["samples"], parents[:, :, i], label, color, linestyle=DASHES[i % 4])
        band(covered, m, found["covered"].min(axis=2), "for all, least over ε", BLACK)
        reference(covered, 1 - results["delta"], "1 - δ")
        worst.plot(m, found["allowed"], color=BLACK, linestyle="--", linewidth=1, label="bound for all")
        worst.plot(m, found["alone"], color=GREY, linestyle=":", linewidth=1, label="bound for one")
        worst.set(ylabel="environments violated (95 % quantile)")
        covered.set(ylabel="share of repetitions")
        sampled.set(xlabel="samples in each environment", ylabel="repetitions that keep the parents", xscale="log")
        for panel in (soft, hard, worst, covered):
            panel.set(xlabel="training environments", xscale="log")
        for panel in axes:
            panel.legend(fontsize=7)
    return drawn
