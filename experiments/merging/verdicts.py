"""The rule by which a claim of the position paper is supported, refuted or left open."""

from collections.abc import Mapping
from typing import Any

from experiments.harness.claims import Claim, Interval, above, below, every

CARD = "method card token-reduction-beyond-efficiency"


def verdict(effects: Mapping[str, Interval], smallest: float) -> bool | None:
    """True: every whole interval is above 0. False: otherwise, a whole interval is below `smallest`, the least effect that would matter.

    None: neither, or a single seed, which cannot tell. The effects of a claim are paired by seed: what the full-token model is bettered by
    and, as the control against mere regularisation, what the random reduction of the same size is bettered by.
    """
    if any(effect.low is None for effect in effects.values()):
        return None
    if every([above(effect, 0.0) for effect in effects.values()]):
        return True
    return False if any(below(effect, smallest) for effect in effects.values()) else None


def judged(
    number: int,
    name: str,
    statement: str,
    supports: str,
    effects: Mapping[str, Interval],
    smallest: float,
    further: Mapping[str, Any] | None = None,
) -> Claim:
    """Claim C`number` of the card: `holds` is True where supported, False where refuted, None where inconclusive.

    effects: the judged ones, the main one first. smallest: see `verdict`. further: measured beside them.
    """
    return Claim(
        name,
        f"C{number}: {statement}",
        f"Kong et al. 2026, a position without experiments; claim C{number} of the {CARD}",
        None,
        {**effects, **(further or {})},
        f"supported: {supports}: every whole interval above 0; refuted: one of them below {smallest:g}; otherwise inconclusive",
        verdict(effects, smallest),
    )


def word(holds: bool | None) -> str:
    return {True: "supported", False: "refuted", None: "inconclusive"}[holds]
