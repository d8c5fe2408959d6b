"""The rule of verdicts, and whether its intervals cover as often as they say."""

import numpy as np
import pytest

from experiments.harness.claims import Interval, interval
from experiments.merging.verdicts import judged, verdict, word

BETTER, WORSE = Interval(0.3, 0.1, 0.5, 3), Interval(-0.3, -0.5, -0.1, 3)
OPEN, TINY, NOTHING = Interval(0.1, -0.2, 0.4, 3), Interval(0.0, -0.01, 0.01, 3), Interval(0.0, 0.0, 0.0, 3)


@pytest.mark.parametrize(
    "effect, control, holds",
    [
        (BETTER, BETTER, True),
        (BETTER, WORSE, False),
        (WORSE, BETTER, False),
        (BETTER, OPEN, None),
        (OPEN, OPEN, None),
        (OPEN, WORSE, False),
        (BETTER, TINY, False),  # no better than random, precisely
        (BETTER, NOTHING, False),
        (BETTER, Interval(0.015, 0.01, 0.02, 3), True),  # small, but there
        (BETTER, Interval(0.5, None, None, 1), None),
        (WORSE, Interval(0.5, None, None, 1), None),
    ],
)
def test_supported_refuted_or_open(effect, control, holds):
    assert verdict({"over full": effect, "over random": control}, 0.02) is holds


def test_a_claim_tells_its_number_and_rule():
    claim = judged(
        3, "faster", "It is faster.", "steps saved", {"saved": BETTER, "over random": OPEN}, 0.05, {"more": 1}
    )
    assert claim.statement.startswith("C3: ") and claim.holds is None and "0.05" in claim.threshold
    assert claim.measured["more"] == 1
    assert [word(holds) for holds in (True, False, None)] == ["supported", "refuted", "inconclusive"]


def test_paired_intervals_cover_zero_for_identical_arms_as_often_as_they_say():
    """Two arms of one law, five seeds that share a part: 95 % of 2000 differences' intervals hold 0, within four deviations."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        seed, arms = rng.normal(size=5), rng.normal(size=(2, 5))
        found = interval((seed + arms[0]) - (seed + arms[1]))
        held += found.low <= 0 <= found.high
    assert abs(held / 2000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)
