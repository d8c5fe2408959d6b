"""Where and how much to prune, found by drawing configurations at random and trying them on a few images.

Wang et al. 2024 (Zero-TPrune), which tunes its pruning layers by Monte-Carlo sampling, cheap since nothing is trained; method card
zero-tprune. Every configuration is one more compile, since its shapes are its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from experiments.harness.claims import Claim, above, interval
from experiments.merging.pruned_vision import PROGRAMS, SOURCE, Pruning, evaluator, flops_share, solve_schedule
from lexinv.data.glyphs import Images
from lexinv.nn.vision_transformer import VisionConfig


def draw_prunings(model: VisionConfig, kept_flops: float, number: int, seed: int) -> list[Pruning]:
    """Random configurations of about these FLOPs (within 0.01): two to four layers but the last, how much in each, and the share of S."""
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < number:
        most = min(4, model.layers.depth - 1)
        layers = rng.choice(model.layers.depth - 1, size=rng.integers(min(2, most), most + 1), replace=False)
        exponents = rng.dirichlet(np.ones(len(layers))) * len(layers)
        pruning = Pruning(
            solve_schedule(model, kept_flops, dict(zip(layers.tolist(), exponents.tolist(), strict=True))),
            round(float(rng.uniform(0, 0.5)), 3),
        )
        if abs(flops_share(model, pruning.schedule) - kept_flops) <= 0.01:
            drawn.append(pruning)
    return drawn


def random_search(
    model: VisionConfig,
    params: Any,
    calibration: Images,
    images: Images,
    default: Pruning,
    drawn: Sequence[Pruning],
    keys: Array,
) -> dict[str, Any]:
    """Accuracy on all heads with the default and the drawn configurations, [configurations][seeds], on calibration and other images."""
    all_heads = PROGRAMS["similarity_first"].index("unfiltered")
    tried: dict[str, Any] = {"configurations": [], "calibration": [], "accuracy": []}
    for pruning in (default, *drawn):
        judge = evaluator("similarity_first", pruning, model)
        tried["configurations"].append([list(pruning.schedule), pruning.similar])
        for name, those in (("calibration", calibration), ("accuracy", images)):
            tried[name].append(np.round(judge(params, those, keys, all_heads)[0].mean(axis=1), 4).tolist())
    return tried


def claims(found: dict[str, Any]) -> list[Claim]:
    """Whether the search pays on images that it has not seen."""
    calibration, tested = np.array(found["calibration"]), np.array(found["accuracy"])
    chosen = np.take_along_axis(tested, calibration.argmax(axis=0)[None], axis=0)[0]
    gain = interval(chosen - tested[0])
    return [
        Claim(
            "search_beats_default",
            f"Of {len(tested)} configurations the best on calibration images beats the default one on others (measured: difference "
            "of accuracy, small glyph; choices differ by seed).",
            SOURCE,
            None,
            gain,
            "whole interval above 0",
            above(gain, 0.0),
        ),
    ]
