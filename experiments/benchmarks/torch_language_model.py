"""The language model of `lexinv.nn` once more in PyTorch, to measure against: the same function of the same parameters.

Written as its users write it: one product for queries, keys and values, fused attention, fused AdamW. Needs the extra `interop`.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import require


def linear(n: int, m: int, scale: float = 1.0) -> nn.Linear:
    """A map without bias, kernel ~ N(0, scale^2 / n)."""
    layer = nn.Linear(n, m, bias=False)
    nn.init.normal_(layer.weight, std=scale * n**-0.5)
    return layer


class Block(nn.Module):
    """One pre-norm layer; see `lexinv.nn.transformer.Block`."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, width = config.heads, config.width
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.query_key_value = linear(width, 3 * width)
        self.output = linear(width, width)
        self.mlp_in = linear(width, config.mlp_width)
        self.mlp_out = linear(config.mlp_width, width, (2 * config.depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in projected)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh"))


class LanguageModel(nn.Module):
    """Mean nats per token of tokens[batch, time] under the standard model with learned positions and a tied table."""

    def __init__(self, config: TransformerConfig, vocab: int):
        super().__init__()
        plain = config.positions == "learned" and config.mixing == "none" and config.causal
        require(plain, "model.positions", config.positions, "'learned', causal and without mixing in PyTorch")
        width = config.width
        self.dtype = getattr(torch, config.dtype)
        self.table = nn.Parameter(torch.randn(vocab, width))
        self.bos = nn.Parameter(torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(config.max_length, width))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = nn.RMSNorm(width, eps=1e-6)
        self.readout = linear(width, width)
        self.logit_scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        lower = self.dtype != torch.float32
        with torch.autocast(tokens.device.type, self.dtype) if lower else nullcontext():
            bos = self.bos.expand(len(tokens), 1, -1)
            x = torch.cat([bos, F.embedding(tokens[:, :-1], self.table)], dim=1) + self.positions[: tokens.shape[1]]
            for layer in self.layers:
                x = layer(x)
            features = self.logit_scale * self.readout(self.final_norm(x))
            logits = F.linear(features * features.shape[-1] ** -0.5, self.table)
        return F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())

    @torch.no_grad()
    def load(self, params: Mapping[str, Any]) -> None:
        """Take over the parameters of `lexinv.nn.language_model.initialize`."""

        def set_to(parameter: Tensor, value: Any) -> None:
            parameter.copy_(torch.from_numpy(np.array(value)))

        model, transformer = params["model"], params["model"]["transformer"]
        set_to(self.table, params["table"])
        set_to(self.bos, model["bos"])
        set_to(self.positions, transformer["positions"])
        set_to(self.final_norm.weight, transformer["final_norm"])
        set_to(self.readout.weight, np.asarray(model["readout"]).T)
        set_to(self.logit_scale, model["logit_scale"])
        stacked = transformer["layers"]
        for index, layer in enumerate(self.layers):
            attention = {name: np.asarray(kernel[index]).T for name, kernel in stacked["attention"].items()}
            projections = [attention[name] for name in ("query", "key", "value")]
            set_to(layer.query_key_value.weight, np.concatenate(projections))
            set_to(layer.output.weight, attention["output"])
            for name in ("mlp_in", "mlp_out"):
                set_to(getattr(layer, name).weight, np.asarray(stacked[name][index]).T)
            for name in ("attention_norm", "mlp_norm"):
                set_to(getattr(layer, name).weight, stacked[name][index])


def make_train_step(
    model: LanguageModel, config: OptimizerConfig, microbatches: int = 1, compiled: bool = False
) -> Callable[[Tensor], Tensor]:
    """`step(tokens) -> loss`: gradient over `microbatches` slices, clipping to the global norm, AdamW at a constant rate."""
    kernels = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    decayed = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in model.parameters() if id(parameter) not in decayed]
    groups = [{"params": kernels, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.b1, config.b2), fused=True)
    loss_of = torch.compile(model) if compiled else model

    def step(tokens: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=tokens.device)
        for rows in tokens.chunk(microbatches):
            loss = loss_of(rows) / microbatches
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        return total

    return step
