"""What a sparse autoencoder minimises: normalised reconstruction, sparsity, and a second chance for features that are hardly used.

Errors are divided by the variance of the batch, so that coefficients do not depend on the scale or the width of the activations. (OpenAI's
code does the same; papers that sum over D have coefficients larger by that variance.)
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from lexinv.sae.autoencoders import Codes, decode, encode, pre_activations
from lexinv.sae.budgets import fit_zipf, largest_remainder, ranks
from lexinv.sae.methods import METHODS, AutoencoderConfig, Params, centre, row_norms
from lexinv.sae.selection import select
from lexinv.sae.sparse import Indices, Values, decode_entries, firings, largest, with_encoder_gradient
from lexinv.validation import Allowed, Checked, Count, CountOrZero, NonNegative, Share, one_of, require

MOST_TOKENS = 2**30
"""Where the counter of tokens since a feature fired stops, before it would overflow."""
DENSITY_DECAY = 0.99
Window = Annotated[int, Allowed(lambda n: 1 <= n <= MOST_TOKENS, f"1 to {MOST_TOKENS} tokens", (0, MOST_TOKENS + 1))]


@dataclass(frozen=True)
class LossConfig(Checked):
    """Terms beside the reconstruction error.

    auxiliary: "dead": aux_k of Gao et al. 2024, for features that have not fired for `dead_after` tokens. "zipf": aux_zipf of Ayonrinde
        2024, for those below `under_use` times the density of their rank under a Zipf law fitted to all (the form is ours: the paper's
        could not be read). "distance": of `jumprelu`, how far those that have not fired are below their thresholds, relu(theta - pre)
        times the norms of their rows, in units of the data's spread (Anthropic, January 2025, there for all; SAELens). "none".
    auxiliary_k: how many of them reconstruct the error of a token. auxiliary_coefficient: 1/32 in Gao et al.
    multi: TopK's second loss at 4k, with weight 1/8, for progressive codes (Gao et al. 2024, section 5.2.2).
    dynamic_ranks: Feature Choice gives rank r's budget to the feature that Mutual Choice would use r-th most; otherwise to feature r.
    anneal_steps: over how many steps Feature Choice goes from the budgets that Mutual Choice would spend to its own.
    k_anneal_steps: over how many steps k falls, in a line, from the width D to its own value, for `topk`, `mutual` and `matryoshka`.
    coefficient_warmup: over how many steps the coefficient of a penalty rises, in a line, from 0.
    resample_every: after how many steps features that have not fired for `dead_after` tokens begin anew (`training.resample`). 0: never.
    """

    auxiliary: Annotated[Literal["none", "dead", "zipf", "distance"], one_of(("none", "dead", "zipf", "distance"))] = (
        "none"
    )
    auxiliary_k: Count = 32
    auxiliary_coefficient: NonNegative = 1 / 32
    dead_after: Window = 100_000
    under_use: Share = 0.3
    multi: bool = False
    dynamic_ranks: bool = False
    anneal_steps: CountOrZero = 0
    k_anneal_steps: CountOrZero = 0
    coefficient_warmup: CountOrZero = 0
    resample_every: CountOrZero = 0


class Statistics(NamedTuple):
    """What is kept from batch to batch and not trained. `coefficient`, `k` and `budgets` are settings: members of a population may differ.

    wanted: running density under Mutual Choice's selection, kept where `dynamic_ranks` or `anneal_steps` ask for it.
    """

    coefficient: Float[Array, ""]
    k: Float[Array, ""]
    budgets: Int[Array, " features"]
    tokens_since_fired: Int[Array, " features"]
    density: Float[Array, " features"]
    wanted: Float[Array, " features"]
    batches: Int[Array, ""]


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
        require(0 < float(k) <= most and whole, "k", float(k), f"above 0, at most {most}, and whole for topk")
        require(float(coefficient) >= 0, "coefficient", float(coefficient), "zero or more")
    found = None if budgets is None else budgets.shape
    wanted = (config.features,) if config.method.per == "feature" else None
    require(found == wanted, "budgets", found, f"{wanted}: one for each rank where kind is feature, else None")
    uniform = jnp.full(config.features, jnp.asarray(k, jnp.float32) / config.features, jnp.float32)
    zeros = jnp.zeros(config.features, jnp.int32)
    return Statistics(
        coefficient=jnp.asarray(coefficient, jnp.float32),
        k=jnp.asarray(k, jnp.float32),
        budgets=zeros if budgets is None else jnp.asarray(budgets, jnp.int32),
        tokens_since_fired=zeros,
        density=uniform,
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
    fits = terms.auxiliary != "distance" or config.kind == "jumprelu"
    require(fits, "auxiliary", terms.auxiliary, "distance only where kind is jumprelu, which has thresholds")


def loss(
    config: AutoencoderConfig,
    terms: LossConfig,
    params: Params,
    statistics: Statistics,
    x: Float[Array, "tokens both"],
) -> tuple[Float[Array, ""], tuple[dict[str, Array], Statistics]]:
    """(loss, (metrics, statistics after this batch)). Metrics: fvu, l0, dead (share of the features) and those that the variant watches.

    Raises `InvalidConfig`, before anything is compiled, for activations of another width, for parameters that are not float32 (in half the
    bits small updates are lost), and for a batch of one token, whose variance is 0. That of a batch whose tokens are all the same cannot
    be seen then: `lexinv.sae.activation_streams.shuffled` refuses it.
    """
    tokens = x.shape[0]
    require(tokens >= 2, "batch", tokens, "at least 2 tokens, since errors are divided by the variance of the batch")
    types = sorted({str(leaf.dtype) for leaf in params.values()})
    require(types == ["float32"], "params", types, "float32; inference takes any float type")
    x, target = config.split(x)
    variance = jnp.mean(jnp.sum(jnp.square(target - jnp.mean(target, axis=0, keepdims=True)), axis=1))
    if config.by_entries:
        pre = jax.lax.stop_gradient(pre_activations(params, x))
        values, indices = _entries(params, x, pre, config.most_active, jnp.int32(statistics.k))
        error = target - decode_entries(values, indices, params["decoder"]) - params["decoder_bias"][None]
        total, fired = _mean_square(error) / variance, firings(values, indices, config.features)
        watched, after = {}, _updated(terms, statistics, None, fired, tokens)
    else:
        codes = encode(config, params, x, budget_of(config, terms, statistics, tokens))
        pre, error = codes.affinities, target - decode(params, codes.activations)
        total = _own_terms(config, terms, params, statistics, target, codes, variance)
        fired = jnp.sum(codes.activations > 0, axis=0, dtype=jnp.int32)
        watched = config.method.watched(config, params, jax.lax.stop_gradient(pre))
        after = _updated(terms, statistics, pre, fired, tokens)

    if terms.auxiliary != "none":
        total += terms.auxiliary_coefficient * _second_chance(config, terms, params, x, after, pre, error, variance)
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
    return with_encoder_gradient(values, indices, x, params["encoder"], params["encoder_bias"], centre(params)), indices


def _own_terms(
    config: AutoencoderConfig,
    terms: LossConfig,
    params: Params,
    statistics: Statistics,
    target: Float[Array, "tokens written"],
    codes: Codes,
    variance: Float[Array, ""],
) -> Float[Array, ""]:
    """The loss without its auxiliary term: the error, that of each prefix on average where there are some, and what the variant adds."""

    def fvu(reconstruction: Float[Array, "tokens written"]) -> Float[Array, ""]:
        return _mean_square(target - reconstruction) / variance

    method, stops = config.method, config.prefixes or (config.features,)
    parts = [codes.activations[:, start:stop] @ params["decoder"][start:stop] for start, stop in pairwise([0, *stops])]
    total = jnp.mean(jnp.stack([fvu(part + params["decoder_bias"][None]) for part in accumulate(parts)]))
    if method.penalty is not None:
        warm = _share_of(statistics, terms.coefficient_warmup) if terms.coefficient_warmup else 1.0
        total += (
            warm * statistics.coefficient * method.penalty(config, params, codes.affinities, statistics.k, variance)
        )
    if method.gate_reconstructs:
        frozen = jax.lax.stop_gradient({name: params[name] for name in ("decoder", "decoder_bias")})
        total += fvu(decode(frozen, codes.affinities))
    if terms.multi:
        wider = jnp.where(select(codes.affinities, jnp.int32(4 * statistics.k), "token"), codes.affinities, 0.0)
        total += fvu(decode(params, wider)) / 8
    return total


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
    target = statistics.budgets[ranks(statistics.wanted)] if terms.dynamic_ranks else statistics.budgets
    if not terms.anneal_steps:
        return target
    share = _share_of(statistics, terms.anneal_steps)
    empirical = statistics.wanted / jnp.sum(statistics.wanted) * total.astype(jnp.float32)
    return largest_remainder((1 - share) * empirical + share * target.astype(jnp.float32), total)


def _share_of(statistics: Statistics, batches: int) -> Float[Array, ""]:
    """How much of so many batches is done, at most 1."""
    return jnp.minimum(statistics.batches.astype(jnp.float32) / batches, 1.0)


def _under_used(terms: LossConfig, statistics: Statistics) -> Bool[Array, " features"]:
    """The features that the auxiliary term is for."""
    chosen = statistics.tokens_since_fired >= terms.dead_after
    if terms.auxiliary == "zipf":  # the dead have no place in the law: their running densities never reach 0
        law = fit_zipf(jnp.where(chosen, 0.0, statistics.density))
        chosen |= statistics.density < terms.under_use * law.density(ranks(statistics.density))
    return chosen


def _second_chance(
    config: AutoencoderConfig,
    terms: LossConfig,
    params: Params,
    x: Float[Array, "tokens width"],
    statistics: Statistics,
    pre: Float[Array, "tokens features"],
    error: Float[Array, "tokens written"],
    variance: Float[Array, ""],
) -> Float[Array, ""]:
    """||e - za W_dec||^2 / ||e||^2, with za the largest affinities of the chosen features and e the error, held fixed; without b_dec.

    Weighted by the number of chosen features over `auxiliary_k` where that is below 1 (EleutherAI's sparsify; SAELens); where there is
    none, nothing is computed. "distance" is another term: see `LossConfig`.
    """
    chosen, residual = _under_used(terms, statistics), jax.lax.stop_gradient(error)
    if terms.auxiliary == "distance":
        weights = jnp.where(chosen, row_norms(config, params["decoder"]), 0.0)
        below = jax.nn.relu(params["threshold"][None] - pre_activations(params, x))
        return jnp.mean(below @ weights) / jnp.sqrt(variance)
    # Outside of what is skipped where none is chosen, so that no second array of this size is held beside the pre-activations.
    candidates = jnp.where(chosen[None], pre, 0.0)

    def share() -> Float[Array, ""]:
        if config.by_entries:
            found = decode_entries(*_entries(params, x, candidates, terms.auxiliary_k), params["decoder"])
        else:
            found = jnp.where(select(candidates, terms.auxiliary_k, "token"), candidates, 0.0) @ params["decoder"]
        share = _mean_square(residual - found) / jnp.maximum(_mean_square(residual), 1e-12)
        return share * jnp.minimum(jnp.sum(chosen).astype(share.dtype) / terms.auxiliary_k, 1.0)

    return jax.lax.cond(jnp.any(chosen), share, lambda: jnp.zeros((), residual.dtype))


def _updated(
    terms: LossConfig,
    statistics: Statistics,
    affinities: Float[Array, "tokens features"] | None,
    fired: Int[Array, " features"],
    tokens: int,
) -> Statistics:
    """Counters and running densities after a batch; the first densities replace the guesses. Affinities are for `wanted`."""
    first, wanted = statistics.batches == 0, statistics.wanted
    if affinities is not None and (terms.dynamic_ranks or terms.anneal_steps):
        total = jnp.round(statistics.k * tokens).astype(jnp.int32)
        shares = jnp.mean(select(affinities, total, "batch").astype(jnp.float32), axis=0)
        wanted = _running(wanted, shares, first)
    return statistics._replace(
        tokens_since_fired=jnp.where(fired > 0, 0, jnp.minimum(statistics.tokens_since_fired, MOST_TOKENS) + tokens),
        density=_running(statistics.density, fired.astype(jnp.float32) / tokens, first),
        wanted=wanted,
        batches=statistics.batches + 1,
    )


def _running(old: Array, new: Array, first: Bool[Array, "..."]) -> Array:
    return jnp.where(first, new, DENSITY_DECAY * old + (1 - DENSITY_DECAY) * new)


def _mean_square(error: Float[Array, "tokens width"]) -> Float[Array, ""]:
    """Mean over tokens of the squared norm."""
    return jnp.mean(jnp.sum(jnp.square(error), axis=1))
