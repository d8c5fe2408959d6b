"""How many tokens each layer removes, in plain Python, so that all shapes are known before anything is compiled.

Never compare methods at equal r or equal ratio of different schedules: compare at equal `lexinv.merging.costs`.
"""

import math
from collections.abc import Iterator, Mapping

from lexinv.merging.plan import check_whole
from lexinv.validation import require


def clip_schedule(counts: list[int] | tuple[int, ...], tokens: int, protect: int = 1) -> tuple[int, ...]:
    """A list of removed tokens by layer, each clipped at half of the unprotected tokens that are left (bipartite matching has no more).

    tokens: at the input, with the first `protect` (CLS), which stay. Raises `InvalidConfig` for a negative or fractional count.
    """
    _check_tokens(tokens, protect)
    left, clipped = tokens - protect, []
    for count in counts:
        check_whole(counts=count)
        require(count >= 0, "counts", count, "0 or more tokens removed by a layer")
        clipped.append(min(count, left // 2))
        left -= clipped[-1]
    return tuple(clipped)


def linear_schedule(tokens: int, depth: int, r: int, inflect: float = 0.0, protect: int = 1) -> tuple[int, ...]:
    """From int(r (1 - inflect)) in the first layer in equal steps to 2r minus that in the last, truncated; r everywhere for inflect 0.

    inflect: from -1, most at first, to 1, most at last (Bolya et al. 2023, the schedule (r, inflect) of the code). Clipped at half.
    """
    check_whole(r=r, depth=depth)
    require(r >= 0, "r", r, "0 or more tokens a layer")
    require(-1 <= inflect <= 1, "inflect", inflect, "from -1 to 1")
    require(depth >= 1, "depth", depth, "at least 1 layer")
    first = int(r * (1 - inflect))
    last, steps = 2 * r - first, max(depth - 1, 1)
    # Whole numbers throughout: a float step would lose the last layer's count to rounding.
    counts = [(first * (steps - i) + last * i) // steps for i in range(depth)] if depth > 1 else [r]
    return clip_schedule(counts, tokens, protect)


def ratio_schedule(tokens: int, depth: int, ratio: float, protect: int = 1) -> tuple[int, ...]:
    """Each layer keeps `ratio` of its N unprotected tokens, rounded up: it removes floor(N - N ratio) (PiToMe). Clipped at half."""
    check_whole(depth=depth)
    require(0 < ratio <= 1, "ratio", ratio, "above 0 and at most 1")
    require(depth >= 1, "depth", depth, "at least 1 layer")
    _check_tokens(tokens, protect)
    left, counts = tokens - protect, []
    for _ in range(depth):
        counts.append(min(math.floor(left - left * ratio + 1e-9), left // 2))
        left -= counts[-1]
    return tuple(counts)


def ratio_schedules(tokens: int, depth: int, protect: int = 1) -> list[tuple[int, ...]]:
    """Every schedule that `ratio_schedule` gives for a ratio from 0.3 on, the one that removes least first."""
    return sorted({ratio_schedule(tokens, depth, step / 2000, protect) for step in range(600, 2001)})


def even_schedules(tokens: int, depth: int, protect: int = 1) -> Iterator[tuple[int, ...]]:
    """Schedules of one number for all layers, or one more in the last ones, from none to half of the tokens. Clipped at half."""
    for least in range((tokens - protect) // 2):
        for more in range(depth):
            yield clip_schedule([least] * (depth - more) + [least + 1] * more, tokens, protect)


def staged_schedules(
    tokens: int, depth: int, layers: Mapping[int, float], protect: int = 1
) -> Iterator[tuple[int, ...]]:
    """Schedules that remove in some layers alone, each of which keeps rho^exponent of its tokens, rounded, at least one.

    layers: with their exponents. One schedule for each rho from 0.1 to 1.
    """
    for step in range(100, 1001):
        rho, left, counts = step / 1000, tokens - protect, []
        for layer in range(depth):
            kept = max(round(left * rho ** layers[layer]), 1) if layer in layers else left
            counts.append(left - kept)
            left = kept
        yield tuple(counts)


def token_counts(tokens: int, schedule: tuple[int, ...]) -> tuple[int, ...]:
    """The number of tokens, protected ones among them, before the first layer and after each; `InvalidConfig` where too many go."""
    counts = [tokens]
    for removed in schedule:
        check_whole(schedule=removed)
        require(0 <= removed <= counts[-1], "schedule", removed, f"from 0 to the {counts[-1]} tokens that are left")
        counts.append(counts[-1] - removed)
    return tuple(counts)


def _check_tokens(tokens: int, protect: int) -> None:
    check_whole(tokens=tokens, protect=protect)
    require(tokens >= 1, "tokens", tokens, "at least 1")
    require(0 <= protect <= tokens, "protect", protect, f"from 0 to the {tokens} tokens")
