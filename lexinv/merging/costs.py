"""What a Transformer costs with fewer tokens, in multiply-adds, which the papers of this family call FLOPs."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from jaxtyping import Array, Float

from lexinv.merging.schedules import token_counts
from lexinv.validation import require

Count = int | float | Float[Array, ""]


def block_flops(before: Count, after: Count, width: int, mlp_width: int) -> Count:
    """Multiply-adds of a block whose attention sees `before` tokens and whose MLP sees `after`: 4 N C^2 + 2 N^2 C + 2 M C H.

    Projections, scores with weighted values, and the two matrices of the MLP; norms, softmax and matching are not counted. With
    after = before and H = 4C it is the 12 N C^2 + 2 N^2 C of the ToMe and PiToMe code, and times the layers the prefill of DivPrune's
    tflops.py. Counts may be traced (expected counts of learned rates).
    """
    return 4 * before * width**2 + 2 * before * before * width + 2 * after * width * mlp_width


def model_flops(counts: tuple[int, ...], width: int, mlp_width: int) -> int:
    """Of all blocks; counts: tokens before the first and after each (`schedules.token_counts`). Patches, norms, head are not counted."""
    require(len(counts) >= 2, "counts", counts, "the tokens before the first block and after each")
    return sum(int(block_flops(n, m, width, mlp_width)) for n, m in pairwise(counts))


def relative_flops(counts: Sequence[Count], width: int, mlp_width: int) -> Count:
    """Of all blocks, over those of as many blocks that keep all tokens. counts: as for `model_flops`; they may be traced."""
    require(len(counts) >= 2, "counts", counts, "the tokens before the first block and after each")
    spent = sum(block_flops(n, m, width, mlp_width) for n, m in pairwise(counts))
    return spent / ((len(counts) - 1) * block_flops(counts[0], counts[0], width, mlp_width))


def nearest_schedule(
    schedules: Iterable[tuple[int, ...]], goal: float, tokens: int, width: int, mlp_width: int
) -> tuple[int, ...]:
    """Of some schedules the one whose `relative_flops` are nearest to `goal`, of equally near ones the first.

    Methods are compared at equal FLOPs, never at equal numbers of different schedules (`lexinv.merging.schedules`).
    """
    return min(schedules, key=lambda s: abs(relative_flops(token_counts(tokens, s), width, mlp_width) - goal))
