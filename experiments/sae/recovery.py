"""Best reconstruction is not best recovery: sparse autoencoders against the features that made their data, with latents spare and scarce.

SynthSAEBench (documentation of SAELens): matching pursuit reconstructs best and recovers worse. Features are independent, with more
latents than features or fewer; or hierarchical: children only with their parents. All variants are compared at the same L0: those that pay
a penalty are trained at two settings around it, between which their metrics are interpolated on each seed. Beside each encoder, matching
pursuit on its own decoder at the same L0. A check on orthogonal features, one at a time, which every kind must recover.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric, interpolated, measured
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, GREY, PALETTE, panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.autoencoder_scores import judge
from experiments.subjects.sparse_activations import (
    LONG,
    NAMES,
    TINY,
    VARIANTS,
    Setting,
    Trained,
    TrainingConfig,
    train,
    world,
)
from lexinv.sae.metrics import principal_components, recovery
from lexinv.sae.pursuit import pursue
from lexinv.sae.synthetic import SyntheticConfig
from lexinv.validation import Checked, Count, NonNegative, NonNegatives, Positive, some_of

PAPERS = ("saelens",)
PAGE = "saelens: docs/synth_sae_bench.md"
REGIMES = ("spare", "scarce", "hierarchical")
METRICS = ("fvu", "l0", "dead", "collapse", "mmcs", "mcc", "f1", "uniqueness")
SEEDS = tuple(range(8))
WORLD = SyntheticConfig(width=32, features=64, l0=3.0)
ORTHOGONAL = SyntheticConfig(width=32, features=32, l0=1.0, alpha=0.0, difficulty=0.0, orthogonal=True)


@dataclass(frozen=True)
class Regime(Checked):
    """Data and number of latents."""

    data: SyntheticConfig
    features: Count


@dataclass(frozen=True)
class Config(Checked):
    """k: the L0 at which all are compared, near the true one; orthogonal_k of the check, for which `check` trains.

    targets: of JumpReLU, over k, with the coefficient `jumprelu`. gated, relu: coefficients of their penalties. The last of these
    settings is the least sparse, and the check takes it. pursuit_steps: most latents that matching pursuit gives a token.
    """

    spare: Regime = Regime(WORLD, 96)
    scarce: Regime = Regime(WORLD, 32)
    hierarchical: Regime = Regime(replace(WORLD, parents=16), 32)
    orthogonal: Regime = Regime(ORTHOGONAL, 32)
    training: TrainingConfig = TrainingConfig(steps=5000, batch=256, seeds=SEEDS)
    check: TrainingConfig = TrainingConfig(steps=500, batch=256, seeds=SEEDS)
    variants: Annotated[tuple[str, ...], some_of(VARIANTS)] = (
        "topk",
        "mutual",
        "matryoshka",
        "feature_zipf",
        "pursuit",
        "jumprelu",
        "gated",
        "relu",
    )
    k: Positive = 3.0
    orthogonal_k: Positive = 1.0
    jumprelu: NonNegative = 1.0
    targets: NonNegatives = (0.9, 1.0)
    gated: NonNegatives = (0.75, 0.45)
    relu: NonNegatives = (0.8, 0.42)
    pursuit_steps: Count = 12

    def checks(self):
        fewest = min(getattr(self, name).features for name in REGIMES)
        whole = self.k == round(self.k) and 1 <= self.k <= fewest
        yield whole, "k", f"a whole number from 1 to {fewest}, the fewest latents of a regime"
        yield self.pursuit_steps >= self.k, "pursuit_steps", f"at least k = {self.k:g}"
        yield self.check.seeds == self.training.seeds, "check.seeds", f"those of training, {self.training.seeds}"
        data = self.orthogonal.data
        fits = data.orthogonal and data.features == self.orthogonal.features
        yield fits, "orthogonal", "orthogonal features, and as many latents"
        yield self.targets == tuple(sorted(self.targets)), "targets", "rising"
        for name in ("gated", "relu"):
            found = getattr(self, name)
            yield found == tuple(sorted(found, reverse=True)), name, "falling"

    def settings(self, variant: str, k: float) -> list[Setting]:
        """What is trained of one variant."""
        if variant == "jumprelu":
            return [Setting(k * target, self.jumprelu) for target in self.targets]
        if variant in ("gated", "relu"):
            return [Setting(k, coefficient) for coefficient in getattr(self, variant)]
        return [Setting(k)]


def sized(width: int, features: int, l0: float, parents: int, latents: tuple[int, ...]) -> dict[str, Any]:
    """Regimes of these sizes, for `presets`."""
    data = {"data.width": width, "data.features": features, "data.l0": l0}
    found = {f"{name}.{field}": value for name in REGIMES for field, value in data.items()}
    found |= {f"{name}.features": count for name, count in zip(REGIMES, latents, strict=True)}
    return found | {"hierarchical.data.parents": parents}


PRESETS = presets(
    Config(),
    smoke={  # one shape everywhere, so that each variant compiles once
        **sized(16, 16, 2.0, 4, (16,) * 3),
        **{f"orthogonal.data.{field}": 16 for field in ("width", "features")},
        "orthogonal.features": 16,
        **{name.replace("training", part): value for part in ("training", "check") for name, value in TINY.items()},
        **{f"{part}.seeds": (0,) for part in ("training", "check")},
        "variants": ("mutual", "jumprelu", "pursuit"),
        "k": 2.0,
        "pursuit_steps": 2,
    },
    quick={f"{part}.seeds": (0, 1, 2) for part in ("training", "check")},
    paper={
        **sized(768, 16_384, 25.0, 4096, (24_576, 4096, 4096)),
        **LONG,
        "k": 25.0,
        "pursuit_steps": 80,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By regime and variant the metrics [seeds, settings], with those of references; MCC of the orthogonal check by variant."""

    def one(arm: str, seed: int) -> dict[str, Any]:
        name, kind = arm.split("/")
        regime: Regime = getattr(config, name)
        if kind == "references":
            return refer(config, regime, seed)
        check = name == "orthogonal"
        settings = config.settings(kind, config.orthogonal_k)[-1:] if check else config.settings(kind, config.k)
        training = config.check if check else config.training
        trained = train(
            VARIANTS[kind], regime.data, regime.features, settings, training, seed, f"{arm}/seed-{seed}", workspace
        )
        if check:
            return {"mcc": judge(trained)["mcc"]}
        return by_metric([recover(trained, member, config.pursuit_steps) for member in range(len(settings))])

    arms = [f"{name}/{kind}" for name in (*REGIMES, "orthogonal") for kind in config.variants]
    arms += [f"{name}/references" for name in REGIMES]
    return {
        "seeds": list(config.training.seeds),
        "k": config.k,
        "variants": list(config.variants),
        "arms": measured(workspace, arms, config.training.seeds, one),
    }


def recover(trained: Trained, member: int, steps: int) -> dict[str, float]:
    """The judgement of one autoencoder, and FVU, L0 and F1 of matching pursuit on its decoder, at the encoder's own L0."""
    judged, params = judge(trained, member), trained.members[member].params
    centred = trained.held_out.activations - params["decoder_bias"][None]
    calibration = trained.calibration.activations - params["decoder_bias"][None]
    found = pursue(centred, calibration, params["decoder"], judged["l0"], steps)
    pursuit = judge_pursuit(centred, params["decoder"], found, trained.dictionary, trained.held_out.codes)
    return {metric: judged[metric] for metric in METRICS} | {f"pursuit_{key}": value for key, value in pursuit.items()}


def refer(config: Config, regime: Regime, seed: int) -> dict[str, float]:
    """Matching pursuit on the true dictionary, at L0 k; FVU of k principal components; the true L0."""
    dictionary, fitted, held_out = world(regime.data, config.training, seed)
    x, calibration = (tokens.activations - regime.data.offset for tokens in (held_out, fitted))
    codes = pursue(x, calibration, dictionary, config.k, config.pursuit_steps)
    components = principal_components(np.asarray(fitted.activations), np.asarray(x), [round(config.k)])
    return judge_pursuit(x, dictionary, codes, dictionary, held_out.codes) | {
        "components": round(components[0], 5),
        "true_l0": round(float(np.mean(np.sum(np.asarray(held_out.codes) != 0, axis=1))), 4),
    }


def judge_pursuit(x: Array, decoder: Array, codes: Array, dictionary: Array, truth: Array) -> dict[str, float]:
    """FVU, L0 and F1 of codes without a bias."""
    values = np.asarray(x, np.float64)
    error = np.square(values - np.asarray(codes @ decoder, np.float64)).sum()
    total = np.square(values - values.mean(axis=0)).sum()
    found = recovery(*(np.asarray(value) for value in (decoder, dictionary, codes, truth)))
    l0 = float(np.mean(np.sum(np.asarray(codes) != 0, axis=1)))
    return {"fvu": round(float(error / total), 5), "l0": round(l0, 4), "f1": round(found.f1, 4)}


def at_equal_l0(results: dict[str, Any]) -> Arms:
    """By arm and metric [seeds]: of each variant at L0 k, between its settings."""
    arms, k = Arms(results), results["k"]

    def at_k(arm: str, metric: str, values: list[Any]) -> np.ndarray:
        return interpolated(arms[arm, "l0"], arms[arm, metric], k) if np.ndim(values) == 2 else np.array(values)

    found = {arm: {name: at_k(arm, name, v) for name, v in metrics.items()} for arm, metrics in arms.found.items()}
    return Arms({"arms": found})


def chosen_on_others(values: np.ndarray) -> list[int]:
    """For each seed the variant [variants, seeds] with the largest mean over the other seeds (over its own where it is alone)."""
    seeds = range(values.shape[1])
    others = [[j for j in seeds if j != i] or [i] for i in seeds]
    return [int(values[:, rest].mean(axis=1).argmax()) for rest in others]


def recovery_beyond_reconstruction(arms: Arms, regime: str, variants: list[str]) -> dict[str, np.ndarray]:
    """By metric and variants, on each seed: that of the variant which recovers best minus that of the variant with the lowest FVU."""

    def of_all(metric: str) -> np.ndarray:
        return np.array([arms[f"{regime}/{variant}", metric] for variant in variants])

    best, found = chosen_on_others(-of_all("fvu")), {}
    for metric in ("mcc", "f1"):
        values = of_all(metric)
        top = chosen_on_others(values)
        names = [variants[max(chosen, key=chosen.count)] for chosen in (top, best)]
        gap = [
            values[first, seed] - values[second, seed]
            for seed, (first, second) in enumerate(zip(top, best, strict=True))
        ]
        found[f"{regime}, {metric}: {' over '.join(names)}"] = np.array(gap)
    return found


def claims(results: dict[str, Any]) -> list[Claim]:
    """Reconstruction against recovery, matching pursuit, and the orthogonal check."""
    arms, variants = at_equal_l0(results), results["variants"]

    def surely(item: tuple[str, np.ndarray]) -> int:
        return ("refuted", "open", "holds").index(above(0)(item[1]))

    gaps = [recovery_beyond_reconstruction(arms, regime, variants) for regime in REGIMES]
    pursuit = {
        f"{regime}, {metric}": np.mean(
            [
                arms[f"{regime}/{v}", f"pursuit_{metric}"] - arms[f"{regime}/{v}", metric]
                for v in variants
                if v != "pursuit"
            ],
            axis=0,
        )
        for regime in REGIMES
        for metric in ("fvu", "f1")
    }
    rows = [
        (
            "recovery_is_not_reconstruction",
            "In every regime the variant that reconstructs best is not the one that recovers the true features best, by their directions "
            "(MCC) or by where they fire (F1): the metric of the two that tells them apart more surely is judged.",
            PAGE,
            dict(max(gap.items(), key=surely) for gap in gaps),
            above(0),
            "MCC or F1 of the best by that metric minus that of the variant with the lowest FVU, on each seed, both chosen by the mean "
            "over the other seeds, all at L0 k",
            "lowest FVU and highest MCC and F1 belong to different methods",
        ),
        (
            "pursuit_reconstructs_better_and_recovers_worse",
            "An autoencoder trained by matching pursuit, which then takes latents from a token until none is worth it, leaves less "
            "unexplained than Mutual Choice but fires less where the true features do.",
            PAGE,
            {
                f"{regime}, {metric}": arms[f"{regime}/pursuit", f"pursuit_{metric}"] - arms[f"{regime}/mutual", metric]
                for regime in REGIMES
                for metric in ("fvu", "f1")
                if {"pursuit", "mutual"} <= set(variants)
            },
            below(0),
            "FVU and F1 of MP-SAE, trained with k steps a token, where a threshold ends them, minus those of Mutual Choice (BatchTopK)",
            "variance explained 0.835 against 0.792, F1 0.446 against 0.732",
        ),
        (
            "pursuit_at_inference_alone",
            "Matching pursuit on decoders that were trained with an encoder, at its L0, also leaves less unexplained and fires less where "
            "the true features do.",
            OURS,
            pursuit,
            below(0),
            "FVU and F1 of matching pursuit minus those of the encoder, mean over variants but MP-SAE",
        ),
        (
            "every_kind_recovers_orthogonal_features",
            "With as many latents as orthogonal features, one at a time on average, every kind recovers them.",
            OURS,
            {variant: arms[f"orthogonal/{variant}", "mcc"] for variant in variants},
            above(0.99).every_seed,
            "MCC",
        ),
    ]
    return [Claim(*row) for row in rows if row[3]]


def figure(results: dict[str, Any]) -> Figure:
    """MCC and F1 against FVU, a column a regime; a point for each seed, the mean larger; crosses: matching pursuit on the decoder."""
    arms, variants = at_equal_l0(results), results["variants"]
    drawn, axes = panels(2, len(REGIMES), width=3.5, height=3.1, titles=REGIMES)
    for row, metric in enumerate(("mcc", "f1")):
        for column, regime in enumerate(REGIMES):
            panel = axes[row * len(REGIMES) + column]
            for variant, color in zip(variants, PALETTE, strict=False):
                arm = f"{regime}/{variant}"
                panel.plot(arms[arm, "fvu"], arms[arm, metric], "o", color=color, markersize=2.5, alpha=0.5)
                mean = arms[arm, "fvu"].mean(), arms[arm, metric].mean()
                panel.plot(*mean, "o", color=color, markersize=6, label=NAMES[variant] if row == 0 else None)
                if metric == "f1":
                    mean = arms[arm, "pursuit_fvu"].mean(), arms[arm, "pursuit_f1"].mean()
                    panel.plot(*mean, "x", color=color, markersize=6)
            oracle = arms[f"{regime}/references", "fvu"]
            if metric == "f1":
                best = oracle.mean(), arms[f"{regime}/references", "f1"].mean()
                panel.plot(*best, "*", color=BLACK, markersize=8, label="oracle: pursuit, true dictionary")
                panel.plot([], [], "x", color=GREY, label="pursuit, learned decoder")
            else:
                panel.axvline(oracle.mean(), color=BLACK, linewidth=0.8, linestyle=":", label="oracle's FVU")
            panel.set(xscale="log", xlabel="fraction of variance unexplained", ylabel=metric.upper())
            ticks = (0.05, 0.1, 0.2, 0.5)
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.set_xticks([], minor=True)
    for panel in (axes[0], axes[len(REGIMES)]):
        panel.legend(fontsize=6.5)
    return drawn
