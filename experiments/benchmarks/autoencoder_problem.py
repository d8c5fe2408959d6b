"""The train step of a TopK sparse autoencoder as it is measured: a problem of given sizes, in our library and in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.benchmarks.problems import STEPS, repeated, torch_device
from lexinv.sae.losses import LossConfig
from lexinv.sae.methods import AutoencoderConfig
from lexinv.sae.training import OptimizerConfig
from lexinv.training.population import population_here
from lexinv.validation import Checked, Count

OPTIMIZER = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, decay=0.0)
DEAD_EVERY, DEAD_BIAS = 4, -2.0


@dataclass(frozen=True)
class AutoencoderProblem(Checked):
    """One step: encode, decode, aux_k for the features that the batch leaves out, clipping, Adam, decoder rows back to norm 1.

    A quarter of the features start with a bias of -2, so that they are seldom positive and dead: the auxiliary term has work to do.
    decode: "entries": ours with codes as values and indices; PyTorch's by embedding_bag. "dense": codes [tokens, features].
    members: seeds that are trained side by side, in one program (ours, `lax.map` on the CPU) or one after another (PyTorch's).
    """

    width: Count
    features: Count
    k: Count
    tokens: Count
    auxiliary_k: Count
    decode: Literal["entries", "dense"] = "entries"
    members: Count = 1

    def checks(self):
        yield self.features >= DEAD_EVERY, "features", f"at least {DEAD_EVERY}"
        for name in ("k", "auxiliary_k"):
            yield getattr(self, name) <= self.features, name, f"at most the {self.features} features"

    @property
    def terms(self) -> LossConfig:
        return LossConfig(auxiliary="dead", auxiliary_k=self.auxiliary_k, dead_after=self.tokens)

    @property
    def label(self) -> str:
        return f"D={self.width}, F={self.features}, k={self.k}, batch {self.tokens}"

    @property
    def floor_bytes(self) -> int:
        """Parameters, Adam's two moments, and two arrays [tokens, features]: pre-activations and their gradient, in float32."""
        parameters = 2 * self.features * self.width + self.features + self.width
        return 4 * (3 * parameters + 2 * self.tokens * self.features)

    def ours(self) -> Callable[[], Any]:
        """Our train step of all members. A call gives the state and, as "loss" [1, members], their losses."""
        import jax

        together = self.members > 1
        population = population_here() if together else "none"
        start, step, batches = jax_autoencoder(self, population)
        params, key = start_params(self, 0), jax.random.key(0)
        if together:
            every = [start_params(self, seed) for seed in range(self.members)]
            params, key = jax.tree.map(lambda *leaves: np.stack(leaves), *every), jax.random.split(key, self.members)
            start = jax.vmap(start)
        return repeated(step, jax.jit(start)(params, key), batches)

    def lowered(self) -> Any:
        """Our train step of one member before it is compiled."""
        import jax

        start, step, batches = jax_autoencoder(self)
        return step.lower(jax.eval_shape(start, start_params(self, 0), jax.random.key(0)), batches)

    def theirs(self, compiled: bool) -> Callable[[], np.ndarray]:
        """The same step in PyTorch as its users write it, on its accelerator if there is one. A call gives the losses of all members."""
        import torch

        from experiments.benchmarks.torch_autoencoder import make_train_step

        del compiled
        device = torch_device()
        x = torch.from_numpy(random_activations(self)).to(device)
        starts = [start_params(self, seed) for seed in range(self.members)]
        steps = [make_train_step(self, OPTIMIZER, params, device) for params in starts]
        return lambda: np.array([step(x).item() for step in steps])


def random_activations(problem: AutoencoderProblem) -> np.ndarray:
    """The one batch that every step of a problem is given, float32[tokens, width]."""
    return np.random.default_rng(0).standard_normal((problem.tokens, problem.width), np.float32)


def start_params(problem: AutoencoderProblem, seed: int) -> dict[str, np.ndarray]:
    """As `lexinv.sae.autoencoders.initialize`, b_dec 0, and the bias of every fourth feature -2."""
    decoder = np.random.default_rng(seed).standard_normal((problem.features, problem.width), np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    bias = np.where(np.arange(problem.features) % DEAD_EVERY == 0, DEAD_BIAS, 0.0).astype(np.float32)
    zeros = np.zeros(problem.width, np.float32)
    return {"encoder": decoder.T, "encoder_bias": bias, "decoder": decoder, "decoder_bias": zeros}


def jax_autoencoder(problem: AutoencoderProblem, population: Literal["none", "map", "vmap"] = "none"):
    """(start(params, key) -> state, the train step, its batches [1, tokens, width]), nothing compiled."""
    import jax.numpy as jnp

    from lexinv.sae.losses import start_statistics
    from lexinv.sae.training import make_autoencoder_step, make_optimizer
    from lexinv.training.state import create_state

    most_active = problem.k if problem.decode == "entries" else 0
    config = AutoencoderConfig(problem.width, problem.features, "topk", most_active=most_active)
    optimizer = make_optimizer(OPTIMIZER, config, STEPS)

    def start(params, key):
        return create_state(params, optimizer, key, start_statistics(config, jnp.float32(problem.k), 0.0))

    step = make_autoencoder_step(config, problem.terms, optimizer, population)
    return start, step, {"activations": random_activations(problem)[None]}
