"""The variants of sparse autoencoders as one table: selection, terms of the loss, inference. A new variant is a row of `METHODS`.

Conventions follow Gao et al. 2024 (arXiv 2406.04093) where a variant does not say otherwise. Released codes differ in what they add; what
is built here is said at each function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.sae.jumprelu import entry_size, jump_relu, near, step
from lexinv.sae.pursuit import matching_pursuit
from lexinv.sae.selection import Per
from lexinv.validation import Checked, Count, CountOrZero, Positive, one_of

Params = dict[str, Array]
Kind = Literal["relu", "gated", "jumprelu", "topk", "mutual", "feature", "matryoshka", "pursuit"]


@dataclass(frozen=True)
class AutoencoderConfig(Checked):
    """width D, features F, and the variant, a name of `METHODS`.

    free_norms: of `relu`: the penalty weighs features by the norms of their decoder rows, which are then free; otherwise rows have norm 1.
    bandwidth: of the kernel behind the gradient of JumpReLU's thresholds, in units of `jumprelu.entry_size`, the size of an active affinity
        in the batch. (Released codes have it in absolute units: where nothing active lies that near to its threshold, none ever moves.)
    prefixes: of `matryoshka`: sizes of the nested dictionaries, the last of which is F.
    centre: of the sample at which b_dec begins: its mean, or its geometric median, which outliers move less (Gao et al. 2024).
    most_active: the largest k of any member. `pursuit` takes so many steps. With it `topk` holds codes in training as so many values
        and indices for each token (`lexinv.sae.sparse`), the same but for rounding, which is faster where F / k is large; at 0 as
        [tokens, features].
    """

    width: Count
    features: Count
    kind: Annotated[Kind, one_of(get_args(Kind))] = "topk"
    free_norms: bool = False
    bandwidth: Positive = 1.0
    prefixes: tuple[int, ...] = ()
    centre: Literal["mean", "median"] = "mean"
    most_active: CountOrZero = 0

    def checks(self):
        has = self.method.has
        yield "free_norms" in has or not self.free_norms, "free_norms", f"False where kind is {self.kind}"
        least, most = int(self.method.tied), self.features if "most_active" in has else 0
        yield least <= self.most_active <= most, "most_active", f"{least} to {most} where kind is {self.kind}"
        if "prefixes" in has:
            rising = list(self.prefixes) == sorted(set(self.prefixes)) and self.prefixes[-1:] == (self.features,)
            fits = rising and self.prefixes[0] >= 1
            yield fits, "prefixes", f"rising sizes of which the last is {self.features}"
        else:
            yield not self.prefixes, "prefixes", f"empty where kind is {self.kind}"

    @property
    def method(self) -> "Method":
        return METHODS[self.kind]

    @property
    def by_entries(self) -> bool:
        """Whether training holds codes as values and indices."""
        return self.most_active > 0 and not self.method.tied

    @property
    def unit_norm(self) -> bool:
        """Whether decoder rows are kept at norm 1."""
        return not self.free_norms


Affinities = Float[Array, "tokens features"]
Budget = int | Int[Array, "..."] | None
Activation = Callable[[AutoencoderConfig, Params, Float[Array, "tokens width"], Affinities, Budget], Affinities]
"""activate(config, params, x, affinities, budget): the activations z of affinities relu(pre)."""
Penalty = Callable[[AutoencoderConfig, Params, Affinities, Array, Array], Array]
"""penalty(config, params, affinities, k, variance): what the coefficient of a run multiplies."""


@dataclass(frozen=True)
class Method:
    """One variant.

    per: over what its budget is spent; None: no budget is spent. activate: of those that select no affinities by it.
    tied: it has no encoder but W_dec^T, and no bias of one.
    own: its own parameters, [F] each, as they begin. has: those settings of `AutoencoderConfig` and `LossConfig` that are not for all.
    penalty: its sparsity term. watched: metrics of its own. gate_reconstructs: the affinities have to reconstruct by themselves, with the
        decoder held fixed.
    as_jumprelu: the parameters in which the same autoencoder as a JumpReLU differs; None where its threshold is calibrated, or where it
        has none that is the same for all tokens.
    """

    per: Per | None = None
    activate: Activation | None = None
    tied: bool = False
    own: Callable[[AutoencoderConfig], Params] = lambda config: {}
    has: tuple[str, ...] = ()
    penalty: Penalty | None = None
    watched: Callable[[AutoencoderConfig, Params, Affinities], dict[str, Array]] = lambda config, params, affinities: {}
    gate_reconstructs: bool = False
    as_jumprelu: Callable[[Params], Params] | None = None

    @property
    def needs(self) -> Literal["nothing", "k", "threshold"]:
        """What encodes a token by itself: its parameters alone, its k, or a threshold calibrated for the budget of a batch."""
        return {None: "nothing", "token": "k"}.get(self.per, "threshold")  # type: ignore[return-value]


def l1(config: AutoencoderConfig, params: Params, affinities: Affinities, k: Any, variance: Array) -> Array:
    """Mean L1 of the affinities in units of the data's spread: weighted by the decoder's norms where they are free, else as it is."""
    norms = jnp.linalg.norm(params["decoder"], axis=1) if config.free_norms else jnp.ones(config.features, jnp.float32)
    return jnp.mean(affinities @ norms) / jnp.sqrt(variance)


def missed_l0(config: AutoencoderConfig, params: Params, affinities: Affinities, k: Array, variance: Any) -> Array:
    """(L0 / k - 1)^2: how far JumpReLU is from its target."""
    active = step(affinities, params["threshold"], bandwidth_of(config, params, affinities))
    return jnp.square(jnp.mean(jnp.sum(active, axis=1)) / k - 1)


def bandwidth_of(config: AutoencoderConfig, params: Params, affinities: Affinities) -> Array:
    """That of JumpReLU's kernel, in the units of the affinities."""
    return config.bandwidth * entry_size(affinities, params["threshold"])


def gate(
    config: AutoencoderConfig,
    params: Params,
    x: Float[Array, "tokens width"],
    affinities: Affinities,
    budget: Budget = None,
) -> Affinities:
    """Magnitudes relu(exp(r) (x - b_dec) W_enc + b_mag) where the gate, whose pre-activations are the affinities', is open."""
    centred = (x - params["decoder_bias"][None]) @ params["encoder"]
    magnitudes = jax.nn.relu(jnp.exp(params["log_magnitude"])[None] * centred + params["magnitude_bias"][None])
    return jnp.where(affinities > 0, magnitudes, 0.0)


def pursue_k(
    config: AutoencoderConfig, params: Params, x: Float[Array, "tokens width"], affinities: Affinities, budget: Budget
) -> Affinities:
    """k steps of matching pursuit on the decoder's rows, from x - b_dec; all of them at once where k is no array."""
    steps = budget if isinstance(budget, int) else config.most_active
    return matching_pursuit(x - params["decoder_bias"][None], params["decoder"], steps, k=budget)


def ungated(params: Params) -> Params:
    """With r = exp(log_magnitude): encoder r W, bias b_mag and threshold b_mag - r b_gate, as 1[pi_gate > 0] is 1[pi_mag > that].

    Rajamanoharan et al. 2024a derive the same.
    """
    ratio = jnp.exp(params["log_magnitude"])
    return {
        "encoder": params["encoder"] * ratio[None],
        "encoder_bias": params["magnitude_bias"],
        "threshold": params["magnitude_bias"] - ratio * params["encoder_bias"],
    }


METHODS: dict[str, Method] = {
    "relu": Method(
        activate=lambda config, params, x, affinities, budget: affinities,
        penalty=l1,
        has=("free_norms", "coefficient_warmup"),
        as_jumprelu=lambda params: {"threshold": jnp.zeros_like(params["encoder_bias"])},
    ),
    "gated": Method(  # Rajamanoharan et al. 2024a
        activate=gate,
        own=lambda config: dict.fromkeys(("log_magnitude", "magnitude_bias"), jnp.zeros(config.features, jnp.float32)),
        penalty=l1,
        gate_reconstructs=True,
        has=("coefficient_warmup",),
        as_jumprelu=ungated,
    ),
    "jumprelu": Method(  # Rajamanoharan et al. 2024b
        activate=lambda config, params, x, affinities, budget: jump_relu(
            affinities, params["threshold"], bandwidth_of(config, params, affinities)
        ),
        # 0 until a state is created, where the target of L0 is known: see `training.create_autoencoder_state`.
        own=lambda config: {"threshold": jnp.zeros(config.features, jnp.float32)},
        penalty=missed_l0,
        watched=lambda config, params, affinities: {
            "near": near(affinities, params["threshold"], bandwidth_of(config, params, affinities))
        },
        has=("coefficient_warmup",),
        as_jumprelu=lambda params: {"threshold": params["threshold"]},
    ),
    "topk": Method(per="token", has=("most_active", "multi", "k_anneal_steps")),  # Gao et al. 2024
    # Mutual Choice (Ayonrinde 2024) is BatchTopK (Bussmann et al. 2024) but for its auxiliary loss, which is `LossConfig.auxiliary`.
    "mutual": Method(per="batch", has=("k_anneal_steps",)),
    "feature": Method(per="feature", has=("dynamic_ranks", "anneal_steps")),  # Feature Choice (Ayonrinde 2024)
    # Mutual Choice with a loss for each prefix of the features (Bussmann et al. 2025).
    "matryoshka": Method(per="batch", has=("prefixes", "k_anneal_steps")),
    "pursuit": Method(per="token", activate=pursue_k, tied=True, has=("most_active",)),  # MP-SAE, Costa et al. 2025
}
"""By name, as in `AutoencoderConfig.kind`."""
