"""A predictor that is invariant across a few random interventions is so on unseen ones, however many variables there are.

Parulekar, Shanmugam and Shakkottai 2023 (arXiv 2205.15196), generalisation of invariant representations in linear structural equation
models; method card pac-invariant-representations. All moments are exact (but for one panel), so that nothing is trained and the worst
predictor that passes the training environments is searched for.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.harness.presets import presets
from experiments.harness.style import BLUE, GREEN, GREY, ORANGE, PALETTE, VERMILION, band, panels, reference, styled
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.workspace import Workspace
from experiments.subjects.intervened_models import InterventionConfig, ranks, risks, sampled_gaps, transfer, violated
from lexinv.lexinvariance.invariance import guaranteed_violation, vc_dimension_of_span
from lexinv.precision import double_precision
from lexinv.validation import Count, Counts, Distinct, Fraction

PAPERS = ("parulekar2023pac",)
SITES = {"one": "one variable", "two": "two variables", "all": "all variables"}


@dataclass(frozen=True)
class Config(InterventionConfig):
    """delta: probability with which the bound may fail.

    many: training environments of the one setting in which the bound of the theory says something.
    latent_variables: sizes for which the covariates are also mixed, into twice as many observed ones.
    risk_variables: size for which risks are compared and moments estimated from samples.
    shifts: strengths of the test interventions, in units of `strength`.
    """

    variables: Counts = (6, 12, 25, 50)
    latent_variables: Counts = (6, 12, 25)
    risk_variables: Count = 8
    environments: Counts = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
    many: Count = 16_384
    rank_environments: Count = 400
    delta: Fraction = 0.05
    shifts: Distinct[float] = (0.0, 1.0, 2.0, 3.0, 4.0)
    samples: Counts = (50, 150, 500, 1500, 5000)

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield from super().checks()
        least = self.smallest
        for field in ("variables", "latent_variables"):
            yield min(getattr(self, field)) >= least, field, f"sizes of at least in_degree + 4 = {least}"
        yield least <= self.risk_variables <= 17, "risk_variables", f"{least} to 17: all subsets are tried"
        for field in ("environments", "samples"):
            yield list(getattr(self, field)) == sorted(getattr(self, field)), field, "ascending"
        yield 1.0 in self.shifts, "shifts", "with 1, the strength of the training interventions"


PRESETS = presets(
    Config(),
    smoke={
        "variables": (12,),
        "latent_variables": (12,),
        "environments": (2, 6, 12, 16),
        "many": 256,
        "test_environments": 100,
        "rank_environments": 60,
        "restarts": 2,
        "steps": 10,
        "shifts": (1.0, 3.0),
        "samples": (50, 500),
        "seeds": (0, 1, 2),
    },
    paper={
        "variables": (6, 12, 25, 50, 100, 200),
        "latent_variables": (6, 12, 25, 50),
        "environments": (*range(1, 17), 20, 24, 32, 48, 64, 96, 128, 192, 256, 512),
        "test_environments": 10_000,
        "restarts": 8,
        "steps": 200,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """All settings, each a stage of the workspace: ranks, violated shares, risks under shift, gaps from samples."""
    from rich.progress import track

    stages: dict[str, Callable[[], Any]] = {}
    for variables in config.variables:
        for sites in ("one", "two", "all"):
            stages[f"rank-{sites}-{variables}"] = partial(ranks, config, variables, sites, config.rank_environments)
        for sites in ("two", "all"):
            stages[f"violated-{sites}-{variables}"] = partial(violated, config, variables, sites, config.environments)
    for variables in config.latent_variables:
        stages[f"violated-latent-{variables}"] = partial(
            violated, config, variables, "two", config.environments, latent=True
        )
    smallest = config.variables[0]
    stages["many"] = partial(violated, config, smallest, "one", (config.many,))
    stages["transfer"] = partial(transfer, config, smallest, config.environments[-1])
    stages["risks"] = partial(risks, config, config.risk_variables, config.shifts)
    stages["samples"] = partial(sampled_gaps, config, config.risk_variables, config.samples)
    with double_precision():
        done = {
            name: workspace.cached(name, stage)
            for name, stage in track(stages.items(), "searching", disable=not workspace.progress)
        }
    copied = (
        *("variables", "latent_variables", "in_degree", "features", "environments", "many"),
        *("rank_environments", "epsilon", "delta", "shifts", "samples"),
    )
    return {"seeds": config.seeds, "corpora": {}, **{name: getattr(config, name) for name in copied}, "stages": done}


def needed(stage: dict[str, Any], environments: list[int]) -> np.ndarray:
    """For each seed the number of training environments from which on no predictor that violates a test environment is found.

    Twice the largest number tried where there is none.
    """
    after = [*environments[1:], 2 * environments[-1]]
    return np.array(
        [max([1, *(n for n, share in zip(after, row, strict=True) if share > 0)]) for row in stage["share"]]
    )


def exponents(sizes: list[int], rows: list[np.ndarray]) -> np.ndarray:
    """For each seed the slope of ln value over ln size; rows are per size."""
    return np.polyfit(np.log(sizes), np.log(np.array(rows, dtype=float)), 1)[0]


def last_ranks(results: dict[str, Any], sites: str) -> dict[int, np.ndarray]:
    """Dimensions that all environments span, by number of variables, per seed."""
    stages = results["stages"]
    return {n: np.array([row[-1] for row in stages[f"rank-{sites}-{n}"]]) for n in results["variables"]}


def claims(results: dict[str, Any]) -> list[Claim]:
    """What the card derives for the paper's statements, judged on the worst predictors found."""
    stages, environments = results["stages"], list(results["environments"])
    two = {n: stages[f"violated-two-{n}"] for n in results["variables"]}
    need = {n: needed(stage, environments) for n, stage in two.items()}
    need_all = {n: needed(stages[f"violated-all-{n}"], environments) for n in results["variables"]}
    # With fewer covariates than that a predictor has too few parameters to need all of the environments.
    wide = [n for n in two if n - 1 > max(max(stage["rank"]) for stage in two.values())]
    latent = [
        needed(stages[f"violated-latent-{n}"], environments) - need[n] for n in results["latent_variables"] if n in wide
    ]

    def growth(name: str, statement: str, source: str, by_size: dict[int, np.ndarray], rule: Any) -> list[Claim]:
        if len(by_size) < 2:
            return []
        shown = {f"n = {n}": values for n, values in by_size.items()}
        measured = {"exponent": exponents(list(by_size), list(by_size.values())), **shown}
        published = "no dependence on the ambient dimension" if source != OURS else None
        return [Claim(name, statement, source, measured, {"exponent": rule}, "exponent of n, and by n", published)]

    judged = [
        Claim(
            "one_site_spans_in_degree_plus_two",
            "With soft interventions at one variable the environments' second moments span exactly in-degree + 2 dimensions, whatever the "
            "number of variables.",
            OURS,
            {f"n = {n}": ranks - results["in_degree"] - 2 for n, ranks in last_ranks(results, "one").items()},
            between(-0.5, 0.5).every_seed,
            "dimensions above in-degree + 2",
        ),
        *growth(
            "fixed_sites_rank_does_not_grow",
            "The dimensions that the environments span do not grow with the number n of variables where interventions are at two of them.",
            "parulekar2023pac: abstract",
            last_ranks(results, "two"),
            between(-0.15, 0.15),
        ),
        *growth(
            "all_sites_rank_grows",
            "The dimensions that the environments span grow with n where interventions are at all of them.",
            OURS,
            last_ranks(results, "all"),
            above(0.5),
        ),
        *growth(
            "fixed_sites_needed_does_not_grow",
            "The training environments needed do not grow with n where interventions are at two of the variables.",
            "parulekar2023pac: abstract",
            {n: need[n] for n in wide},
            between(-0.15, 0.15),
        ),
        *growth(
            "all_sites_needed_grows",
            "The training environments needed grow with n where interventions are at all of the variables.",
            OURS,
            need_all,
            above(0.5),
        ),
        Claim(
            "invariance_transfers_from_rank",
            "A predictor that is exactly invariant on as many environments as they span dimensions is so on all of the family.",
            "parulekar2023pac: abstract",
            {f"n = {n}": beyond_rank(stage, environments) for n, stage in two.items()},
            below(1e-6).every_seed,
            "largest gap on a test environment of the worst predictor found",
        ),
        bounds_claim(results),
    ]
    if latent:
        judged.append(
            Claim(
                "mixed_latents_need_no_more",
                "Where only mixtures of the covariates are observed, twice as many as there are latents, no more training environments are "
                "needed.",
                "parulekar2023pac: abstract",
                {"mean over sizes": np.mean(latent, axis=0)},
                below(1),
                "how many more",
                "the guarantees extend to linear indirect observation",
            )
        )
    return judged + risk_claims(results)


def beyond_rank(stage: dict[str, Any], environments: list[int]) -> np.ndarray:
    """For each seed the largest gap with at least as many training environments as they span dimensions; 0 where none were so many."""
    rows = zip(stage["rank"], stage["gap"], strict=True)
    return np.array(
        [max([0.0, *(gap for m, gap in zip(environments, row, strict=True) if m >= rank)]) for rank, row in rows]
    )


def bounds_claim(results: dict[str, Any]) -> Claim:
    """Whether the derived bounds hold on the worst predictors found, where they say something."""
    stages, many = results["stages"], results["many"]
    vc = vc_dimension_of_span(results["features"], max(stages["many"]["rank"]))
    allowed = guaranteed_violation(vc, many, results["delta"])
    return Claim(
        "bounds_hold",
        f"With {many} training environments at one site the violated share stays below the PAC bound, and no gap exceeds what the "
        "coefficients of its environment in those of training allow.",
        OURS,
        {
            "violated share": np.array(stages["many"]["share"])[:, 0],
            "gap over the allowed": np.array(stages["transfer"]),
        },
        {"violated share": below(allowed).every_seed, "gap over the allowed": below(1 + 1e-9).every_seed},
    )


def risk_claims(results: dict[str, Any]) -> list[Claim]:
    """Why invariance matters, and how fast samples make it visible."""
    rows = {name: np.array(values) for name, values in results["stages"]["risks"].items()}
    usual, strongest = list(results["shifts"]).index(1.0), int(np.argmax(results["shifts"]))
    shift, unit = results["shifts"][strongest], "difference of the risks in units of the target's noise variance"
    gaps = np.array(results["stages"]["samples"])
    return [
        Claim(
            "least_squares_wins_in_distribution",
            "On fresh environments of the training strength least squares is below the parents of the target.",
            OURS,
            {"least squares": rows["erm"][:, usual] - rows["parents"][:, usual]},
            below(0),
            unit,
        ),
        Claim(
            "invariant_wins_under_shift",
            f"Under interventions {shift:g} times as strong the best invariant subset is below least squares.",
            OURS,
            {"least squares": rows["erm"][:, strongest] - rows["subset"][:, strongest]},
            above(0),
            unit,
        ),
        Claim(
            "irm_beats_least_squares_under_shift",
            "So is a predictor fitted with the IRM penalty.",
            OURS,
            {"least squares": rows["erm"][:, strongest] - rows["irm"][:, strongest]},
            above(0),
            unit,
        ),
        Claim(
            "sampled_gap_falls_as_root",
            "With moments from N samples in each environment the gap of the causal predictor falls as N^(-1/2).",
            OURS,
            {"causal predictor": exponents(list(results["samples"]), list(gaps.T))},
            between(-0.6, -0.4),
            "exponent of N",
        ),
    ]


PREDICTORS = {
    "erm": ("least squares on all covariates", VERMILION),
    "irm": ("IRM", ORANGE),
    "subset": ("best invariant subset", BLUE),
    "parents": ("parents of the target", GREEN),
}


def figure(results: dict[str, Any]) -> Figure:
    """Ranks, violated shares for two sites, all sites and mixed latents, risks under shift, and gaps from samples."""
    stages, sizes, environments = results["stages"], list(results["variables"]), list(results["environments"])
    titles = {
        "rank": f"Span of {results['rank_environments']} environments",
        "two": "Interventions at two variables",
        "all": "Interventions at all variables",
        "latent": "Two variables, mixed covariates",
        "risk": "Risk under stronger interventions",
        "samples": "Moments from samples",
    }
    drawn, axes = panels(2, 3, width=4.0, height=3.2, titles=tuple(titles.values()))
    at = dict(zip(titles, axes, strict=True))
    with styled():
        for (sites, label), color in zip(SITES.items(), PALETTE, strict=False):
            rows = np.transpose(list(last_ranks(results, sites).values()))
            band(at["rank"], sizes, rows, f"interventions at {label}", color, marker="o", markersize=3)
        at["rank"].set(xlabel="variables n", ylabel="dimensions", xscale="log", yscale="log")
        at["rank"].set_xticks(sizes, sizes)
        at["rank"].set_xticks([], minor=True)
        for kind in ("two", "all", "latent"):
            for n, color in zip(sizes, PALETTE, strict=False):
                if f"violated-{kind}-{n}" in stages:
                    band(at[kind], environments, stages[f"violated-{kind}-{n}"]["share"], f"n = {n}", color)
            at[kind].set(xlabel="training environments", ylabel="test environments violated", xscale="log")
            at[kind].set_ylim(-0.03, 1.1)
        for name, (label, color) in PREDICTORS.items():
            band(at["risk"], results["shifts"], stages["risks"][name], label, color)
        at["risk"].set(xlabel="strength over training", ylabel="risk over noise variance")
        panel, samples = at["samples"], results["samples"]
        band(panel, samples, stages["samples"], "causal predictor", BLUE)
        first = float(np.mean(stages["samples"], axis=0)[0])
        root = [first * math.sqrt(samples[0] / n) for n in samples]
        panel.plot(samples, root, color=GREY, linestyle=":", linewidth=1, label=r"$N^{-1/2}$")
        panel.set(xlabel="samples in each environment", ylabel="gap", xscale="log", yscale="log")
        reference(panel, results["epsilon"], "violated above")
        for panel in axes:
            panel.legend()
    return drawn
