"""What a sparse autoencoder minimises: normalised reconstruction, sparsity, and a second chance for features that are hardly used.

Errors are divided by the variance of the batch, so that coefficients do not depend on the scale or the width of the activations. (OpenAI's
code does the same; papers that sum over D have coefficients larger by that variance.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from lexinv.sae.autoencoders import Codes, decode, encode, pre_activations
from lexinv.sae.budgets import fit_zipf, largest_remainder, ranks
from lexinv.sae.methods import METHODS, AutoencoderConfig, Params
from lexinv.sae.selection import select, smallest_kept
from lexinv.sae.sparse import Indices, Values, decode_entries, firings, largest, with_encoder_gradient
from lexinv.validation import Allowed, Checked, Count, CountOrZero, NonNegative, Share, one_of, require

MOST_TOKENS = 2**30
"""Where the counter of tokens since a feature fired stops, before it would overflow."""
Window = Annotated[int, Allowed(lambda n: 1 <= n <= MOST_TOKENS, f"1 to {MOST_TOKENS} tokens", (0, MOST_TOKENS + 1))]


@dataclass(frozen=True)
class LossConfig(Checked):
    """Terms beside the reconstruction error.

    auxiliary: "dead": aux_k of Gao et al. 2024, for features that have not fired for `dead_after` tokens. "zipf": aux_zipf of Ayonrinde
        2024, for those below `under_use` times the density of their rank under a Zipf law fitted to all (the form is ours: the paper's
        could not be read). "none".
    auxiliary_k: how many of them reconstruct the error of a token. auxiliary_coefficient: 1/32 in Gao et al.
    multi: TopK's second loss at 4k, with weight 1/8, for progressive codes (Gao et al. 2024, section 5.2.2).
    dynamic_ranks: Feature Choice gives rank r's budget to the feature that Mutual Choice would use r-th most; otherwise to feature r.
    anneal_steps: over how many steps Feature Choice goes from the budgets that Mutual Choice would spend to its own.
    k_anneal_steps: over how many steps k falls, in a line, from the width D to its own value, for `topk`, `mutual` and `matryoshka`.
    coefficient_warmup: over how many steps the coefficient of a penalty rises, in a line, from 0.
    """

    auxiliary: Annotated[Literal["none", "dead", "zipf"], one_of(("none", "dead", "zipf"))] = "none"
    auxiliary_k: Count = 32
    auxiliary_coefficient: NonNegative = 1 / 32
    dead_after: Window = 100_000
    under_use: Share = 0.3
    multi: bool = False
    dynamic_ranks: bool = False
    anneal_steps: CountOrZero = 0
    k_anneal_steps: CountOrZero = 0
    coefficient_warmup: CountOrZero = 0


class Statistics(NamedTuple):
    """What is kept from batch to batch and not trained. `coefficient`, `k` and `budgets` are settings: members of a population may differ.

    threshold: running mean of the smallest kept affinity, [] for `mutual` and `matryoshka`, [F] for `feature`; 0 before the first one.
    wanted: running density under Mutual Choice's selection, kept where `dynamic_ranks` or `anneal_steps` ask for it.
    """

    coefficient: Float[Array, ""]
    k: Float[Array, ""]
    budgets: Int[Array, " features"]
    tokens_since_fired: Int[Array, " features"]
    density: Float[Array, " features"]
    threshold: Float[Array, "..."]
    wanted: Float[Array, " features"]
    batches: Int[Array, ""]


DENSITY_DECAY = 0.99
THRESHOLD_DECAY = 0.99


def start_statistics(
    config: AutoencoderConfig,
    k: float | Array,
    coefficient: float | Array,
    budgets: Int[Array, " features"] | None = None,
) -> Statistics:
    """Before the first batch. k may be a fraction where the budget is the batch's; `budgets` are Feature Choice's m_j by rank."""
    if not isinstance(k, Tracer) and not isinstance(coefficient, Tracer):  # those cannot be looked at
        whole = config.method.per != "token" or float(k) == round(float(k))
        most = config.most_active or config.features
        allowed = f"above 0, at most {most}, and whole for topk"
        require(0 < float(k) <= most and whole, "k", float(k), allowed)
        require(float(coefficient) >= 0, "coefficient", float(coefficient), "zero or more")
    found = None if budgets is None else budgets.shape
    by_feature = config.method.per == "feature"
    wanted = (config.features,) if by_feature else None
    require(found == wanted, "budgets", found, f"{wanted}: one for each rank where kind is feature, else None")
    uniform = jnp.full(config.features, jnp.asarray(k, jnp.float32) / config.features, jnp.float32)
    zeros = jnp.zeros(config.features, jnp.int32)
    return Statistics(
        coefficient=jnp.asarray(coefficient, jnp.float32),
        k=jnp.asarray(k, jnp.float32),
        budgets=zeros if budgets is None else jnp.asarray(budgets, jnp.int32),
        tokens_since_fired=zeros,
        density=uniform,
        threshold=jnp.zeros(config.features if by_feature else (), jnp.float32),
        wanted=uniform,
        batches=jnp.zeros((), jnp.int32),
    )


def check_terms(config: AutoencoderConfig, terms: LossConfig) -> None:
    """Raises `InvalidConfig` for terms that the variant does not have."""
    for setting in ("multi", "k_anneal_steps", "coefficient_warmup", "dynamic_ranks", "anneal_steps"):
        has = setting in config.method.has and not (config.most_active and setting in ("multi", "k_anneal_steps"))
        value = getattr(terms, setting)
        owners = [kind for kind, method in METHODS.items() if setting in method.has]
        require(has or not value, setting, value, f"off, unless kind is {' or '.join(owners)} (and most_active 0)")


def loss(
    config: AutoencoderConfig,
    terms: LossConfig,
    params: Params,
    statistics: Statistics,
    x: Float[Array, "tokens width"],
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Statistics]]:
    """(loss, (metrics, statistics after this batch)). Metrics: fvu, l0, dead (share of the features) and those that the variant watches.

    Raises `InvalidConfig`, before anything is compiled, for a batch of one token, whose variance is 0. That of a batch whose tokens are all
    the same cannot be seen then: `lexinv.sae.activation_streams.shuffled` refuses it.
    """
    tokens = x.shape[0]
    require(tokens >= 2, "batch", tokens, "at least 2 tokens, since errors are divided by the variance of the batch")
    variance = jnp.mean(jnp.sum(jnp.square(x - jnp.mean(x, axis=0, keepdims=True)), axis=1))
    if config.by_entries:
        pre = jax.lax.stop_gradient(pre_activations(params, x))
        values, indices = _entries(params, x, pre, config.most_active, jnp.int32(statistics.k))
        error = x - decode_entries(values, indices, params["decoder"]) - params["decoder_bias"][None]
        total, fired = _mean_square(error) / variance, firings(values, indices, config.features)
        after = _updated(config, terms, statistics, None, fired, tokens)
    else:
        codes = encode(config, params, x, budget_of(config, terms, statistics, tokens))
        pre = codes.affinities
        error = x - decode(params, codes.activations)
        total, fired = _dense_terms(config, terms, params, statistics, x, codes, error, variance)
        after = _updated(config, terms, statistics, codes, fired, tokens)

    if terms.auxiliary != "none":
        chosen = _under_used(terms, after)
        # Outside of what is skipped where none is chosen, so that no second array of this size is held beside the pre-activations.
        candidates = jnp.where(chosen[None], pre, 0.0)

        def reconstruct() -> Float[Array, "tokens width"]:
            if config.by_entries:
                return decode_entries(*_entries(params, x, candidates, terms.auxiliary_k), params["decoder"])
            kept = select(candidates, terms.auxiliary_k, "token")
            return jnp.where(kept, candidates, 0.0) @ params["decoder"]

        total += terms.auxiliary_coefficient * _second_chance(terms, chosen, error, reconstruct)
    watched = (
        {} if config.by_entries else config.method.watched(config, params, jax.lax.stop_gradient(codes.affinities))
    )
    metrics = watched | {
        "fvu": _mean_square(error) / variance,
        "l0": jnp.sum(fired).astype(jnp.float32) / tokens,
        "dead": jnp.mean((after.tokens_since_fired >= terms.dead_after).astype(jnp.float32)),
    }
    return total, (metrics, after)


def _entries(
    params: Params,
    x: Float[Array, "tokens width"],
    pre: Float[Array, "tokens features"],
    count: int,
    k: int | Int[Array, ""] | None = None,
) -> tuple[Values, Indices]:
    """The `count` largest of relu(pre) and their places, of which the first k are kept and the others 0, with the encoder's gradient."""
    values, indices = largest(pre, min(count, pre.shape[1]))
    if k is not None:
        values = jnp.where(jnp.arange(values.shape[1], dtype=jnp.int32)[None] < k, values, 0.0)
    encoder = (params[name] for name in ("encoder", "encoder_bias", "decoder_bias"))
    return with_encoder_gradient(values, indices, x, *encoder), indices


def _dense_terms(
    config: AutoencoderConfig,
    terms: LossConfig,
    params: Params,
    statistics: Statistics,
    x: Float[Array, "tokens width"],
    codes: Codes,
    error: Float[Array, "tokens width"],
    variance: Float[Array, ""],
) -> tuple[Float[Array, ""], Int[Array, " features"]]:
    """The loss without its auxiliary term, and how many tokens every feature fires for."""
    fvu = _mean_square(error) / variance
    total = _nested(config, params, x, codes.activations) / variance if config.prefixes else fvu
    method, coefficient = config.method, statistics.coefficient
    if terms.coefficient_warmup:
        coefficient = coefficient * _share_of(statistics, terms.coefficient_warmup)
    if method.penalty is not None:
        total += coefficient * method.penalty(config, params, codes.affinities, statistics.k, variance)
    if method.gate_reconstructs:
        frozen = jax.lax.stop_gradient({name: params[name] for name in ("decoder", "decoder_bias")})
        total += _mean_square(x - decode(frozen, codes.affinities)) / variance
    if terms.multi:
        wider = jnp.where(select(codes.affinities, jnp.int32(4 * statistics.k), "token"), codes.affinities, 0.0)
        total += _mean_square(x - decode(params, wider)) / variance / 8
    return total, jnp.sum(codes.activations > 0, axis=0, dtype=jnp.int32)


def budget_of(config: AutoencoderConfig, terms: LossConfig, statistics: Statistics, tokens: int) -> Array | None:
    """What `selection.select` may spend on a batch: k, M = round(k N), or m_j for each feature; None for variants without a budget."""
    k, per = statistics.k, config.method.per
    if terms.k_anneal_steps:
        share = _share_of(statistics, terms.k_anneal_steps)
        k = (1 - share) * min(config.width, config.features) + share * k
    if per is None:
        return None
    if per == "token":
        return jnp.int32(k)
    total = jnp.round(k * tokens).astype(jnp.int32)
    if per == "batch":
        return total
    target = statistics.budgets
    if terms.dynamic_ranks:
        target = target[ranks(statistics.wanted)]
    if not terms.anneal_steps:
        return target
    share = _share_of(statistics, terms.anneal_steps)
    empirical = statistics.wanted / jnp.sum(statistics.wanted) * total.astype(jnp.float32)
    return largest_remainder((1 - share) * empirical + share * target.astype(jnp.float32), total)


def _share_of(statistics: Statistics, batches: int) -> Float[Array, ""]:
    """How much of so many batches is done, at most 1."""
    return jnp.minimum(statistics.batches.astype(jnp.float32) / batches, 1.0)


def _nested(
    config: AutoencoderConfig,
    params: Params,
    x: Float[Array, "tokens width"],
    activations: Float[Array, "tokens features"],
) -> Float[Array, ""]:
    """Mean over the prefixes of the error of the reconstruction from their features alone."""
    errors, reconstruction, start = [], jnp.broadcast_to(params["decoder_bias"][None], x.shape), 0
    for stop in config.prefixes:
        reconstruction = reconstruction + activations[:, start:stop] @ params["decoder"][start:stop]
        errors.append(_mean_square(x - reconstruction))
        start = stop
    return jnp.mean(jnp.stack(errors))


def _under_used(terms: LossConfig, statistics: Statistics) -> Bool[Array, " features"]:
    """The features that the auxiliary term is for."""
    chosen = statistics.tokens_since_fired >= terms.dead_after
    if terms.auxiliary == "zipf":  # the dead have no place in the law: their running densities never reach 0
        law = fit_zipf(jnp.where(chosen, 0.0, statistics.density))
        chosen |= statistics.density < terms.under_use * law.density(ranks(statistics.density))
    return chosen


def _second_chance(
    terms: LossConfig,
    chosen: Bool[Array, " features"],
    error: Float[Array, "tokens width"],
    reconstruct: Callable[[], Float[Array, "tokens width"]],
) -> Float[Array, ""]:
    """||e - za W_dec||^2 / ||e||^2, with za the largest affinities of the chosen features and e the error, held fixed; without b_dec.

    `reconstruct` gives za W_dec. Weighted by the number of chosen features over `auxiliary_k` where that is below 1 (EleutherAI's
    sparsify; SAELens); where there is none, nothing is computed.
    """
    residual = jax.lax.stop_gradient(error)

    def share() -> Float[Array, ""]:
        share = _mean_square(residual - reconstruct()) / jnp.maximum(_mean_square(residual), 1e-12)
        return share * jnp.minimum(jnp.sum(chosen).astype(share.dtype) / terms.auxiliary_k, 1.0)

    return jax.lax.cond(jnp.any(chosen), share, lambda: jnp.zeros((), residual.dtype))


def _updated(
    config: AutoencoderConfig,
    terms: LossConfig,
    statistics: Statistics,
    codes: Codes | None,
    fired: Int[Array, " features"],
    tokens: int,
) -> Statistics:
    """Counters, running densities and thresholds after a batch; the first densities and kept affinities replace the guesses.

    `codes` are not looked at for `topk`.
    """
    first = statistics.batches == 0
    density = _running(statistics.density, fired.astype(jnp.float32) / tokens, DENSITY_DECAY, first)
    threshold, per = statistics.threshold, config.method.per
    if codes is not None and per is not None and per != "token":
        kept = smallest_kept(codes.affinities, codes.activations > 0, per)
        seen = jax.lax.stop_gradient(jnp.where(jnp.isfinite(kept), kept, threshold))
        threshold = _running(threshold, seen, THRESHOLD_DECAY, threshold == 0)
    wanted = statistics.wanted
    if codes is not None and (terms.dynamic_ranks or terms.anneal_steps):
        total = jnp.round(statistics.k * tokens).astype(jnp.int32)
        shares = jnp.mean(select(codes.affinities, total, "batch").astype(jnp.float32), axis=0)
        wanted = _running(wanted, shares, DENSITY_DECAY, first)
    since = jnp.where(fired > 0, 0, jnp.minimum(statistics.tokens_since_fired, MOST_TOKENS) + tokens)
    return statistics._replace(
        tokens_since_fired=since,
        density=density,
        threshold=threshold,
        wanted=wanted,
        batches=statistics.batches + 1,
    )


def _running(old: Array, new: Array, decay: float, first: Bool[Array, "..."]) -> Array:
    return jnp.where(first, new, decay * old + (1 - decay) * new)


def _mean_square(error: Float[Array, "tokens width"]) -> Float[Array, ""]:
    """Mean over tokens of the squared norm."""
    return jnp.mean(jnp.sum(jnp.square(error), axis=1))
