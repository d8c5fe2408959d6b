"""The TopK step of `lexinv.sae` once more in PyTorch, to measure against: the same function of the same parameters.

Written from the method card as its users write it: `topk`, dense codes or `embedding_bag`, fused Adam. Needs the extra `interop`.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.autoencoder_problem import AutoencoderProblem
from lexinv.sae.training import OptimizerConfig


class TopK(nn.Module):
    """The loss of a batch x[tokens, width]: normalised error plus aux_k / 32; keeps how long every feature has not fired."""

    def __init__(self, problem: AutoencoderProblem, params: Mapping[str, np.ndarray]):
        super().__init__()
        self.k, self.auxiliary_k, self.bag = problem.k, problem.auxiliary_k, problem.decode == "entries"
        self.terms = problem.terms
        self.encoder = nn.Parameter(torch.tensor(np.ascontiguousarray(params["encoder"].T)))  # [features, width]
        self.encoder_bias = nn.Parameter(torch.tensor(params["encoder_bias"]))
        self.decoder = nn.Parameter(torch.tensor(params["decoder"]))
        self.decoder_bias = nn.Parameter(torch.tensor(params["decoder_bias"]))
        self.register_buffer("since_fired", torch.zeros(problem.features, dtype=torch.long))

    def decode(self, affinities: Tensor, values: Tensor, indices: Tensor) -> Tensor:
        if self.bag:
            return F.embedding_bag(indices, self.decoder, per_sample_weights=values, mode="sum")
        return torch.zeros_like(affinities).scatter(1, indices, values) @ self.decoder

    def forward(self, x: Tensor) -> Tensor:
        affinities = F.relu(F.linear(x - self.decoder_bias, self.encoder, self.encoder_bias))
        values, indices = affinities.topk(self.k, dim=1, sorted=False)
        error = x - self.decode(affinities, values, indices) - self.decoder_bias
        total = error.square().sum(1).mean() / (x - x.mean(0)).square().sum(1).mean()
        with torch.no_grad():
            fired = torch.zeros_like(self.since_fired).index_add_(0, indices.flatten(), (values > 0).flatten().long())
            self.since_fired.add_(len(x)).masked_fill_(fired > 0, 0)
            dead = self.since_fired >= self.terms.dead_after
        if dead.any():
            candidates = torch.where(dead, affinities, 0.0)
            values, indices = candidates.topk(self.auxiliary_k, dim=1, sorted=False)
            residual = error.detach()
            missed = (residual - self.decode(candidates, values, indices)).square().sum(1).mean()
            share = missed / residual.square().sum(1).mean().clamp(min=1e-12)
            weight = (dead.sum() / self.auxiliary_k).clamp(max=1.0)
            total = total + self.terms.auxiliary_coefficient * weight * share
        return total


def make_train_step(
    problem: AutoencoderProblem,
    config: OptimizerConfig,
    params: Mapping[str, np.ndarray],
    device: torch.device,
) -> Callable[[Tensor], Tensor]:
    """`step(x) -> loss`: gradient tangent to the decoder's rows, clipping to the global norm, Adam, rows back to norm 1."""
    model = TopK(problem, params).to(device)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, betas=(config.b1, config.b2), eps=config.epsilon, fused=True
    )

    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model(x)
        loss.backward()
        with torch.no_grad():
            rows, gradient = model.decoder, model.decoder.grad
            gradient.sub_((rows * gradient).sum(1, keepdim=True) * rows)
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            model.decoder.div_(model.decoder.norm(dim=1, keepdim=True))
        return loss.detach()

    return step
