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


class Block(nn.Module):
    """One pre-norm layer; see `lexinv.nn.transformer.Block`."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, width = config.heads, config.width
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        sizes = {"query_key_value": (width, 3 * width), "output": (width, width)}
        sizes |= {"mlp_in": (width, config.mlp_width), "mlp_out": (config.mlp_width, width)}
        for name, size in sizes.items():
            setattr(self, name, nn.Linear(*size, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        projected = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in projected)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.finish(x, mixed)

    def extend(self, memory: Tensor, x: Tensor, start: int) -> Tensor:
        """The layer on tokens from `start` on; memory[2, batch, heads, slots, head_dim] has the keys and values before, and gets theirs."""
        projected = self.query_key_value(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in projected)
        stop = start + x.shape[1]
        memory[0, :, :, start:stop], memory[1, :, :, start:stop] = k, v
        past = memory[:, :, :, :stop]
        return self.finish(x, F.scaled_dot_product_attention(q, past[0], past[1], is_causal=start == 0))

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh"))


class LanguageModel(nn.Module):
    """Mean nats per token of tokens[batch, time] under the standard model with learned positions and a tied table.

    params: as of `lexinv.nn.language_model.initialize`.
    """

    def __init__(self, config: TransformerConfig, params: Mapping[str, Any]):
        super().__init__()
        width, model, transformer = config.width, params["model"], params["model"]["transformer"]
        self.dtype = getattr(torch, config.dtype)
        self.table, self.bos = parameter(params["table"]), parameter(model["bos"])
        self.positions, self.logit_scale = parameter(transformer["positions"]), parameter(model["logit_scale"])
        self.layers = blocks(config, transformer)
        self.final_norm, self.readout = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width, bias=False)
        self.final_norm.weight, self.readout.weight = parameter(transformer["final_norm"]), kernel(model["readout"])

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


def blocks(config: TransformerConfig, transformer: Mapping[str, Any]) -> Any:
    """The layers with these parameters."""
    plain = config.positions == "learned" and config.mixing == "none" and config.causal
    require(plain, "model.positions", config.positions, "'learned', causal and without mixing in PyTorch")
    layers, stacked = nn.ModuleList(Block(config) for _ in range(config.depth)), transformer["layers"]
    for index, layer in enumerate(layers):
        attention = {name: value[index] for name, value in stacked["attention"].items()}
        fused = np.concatenate([attention[name] for name in ("query", "key", "value")], axis=1)
        layer.query_key_value.weight, layer.output.weight = kernel(fused), kernel(attention["output"])
        for name in ("mlp_in", "mlp_out"):
            getattr(layer, name).weight = kernel(stacked[name][index])
        for name in ("attention_norm", "mlp_norm"):
            getattr(layer, name).weight = parameter(stacked[name][index])
    return layers


def parameter(value: Any) -> nn.Parameter:
    return nn.Parameter(torch.tensor(np.asarray(value)))


def kernel(value: Any) -> nn.Parameter:
    """Of a linear map: ours is [in, out], PyTorch's [out, in]."""
    return parameter(np.ascontiguousarray(np.asarray(value).T))


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
