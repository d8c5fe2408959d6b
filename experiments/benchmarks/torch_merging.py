"""The Vision Transformer of `lexinv.nn.vision_transformer` with ToMe once more in PyTorch, to measure against: the same function.

Written from the method card as its users write it: one product for queries, keys and values, `scaled_dot_product_attention` with the log
sizes added to the scores once tokens have been merged. Needs the extra `interop`.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.merging_problem import MergingProblem


def bipartite_merge(keys: Tensor, r: int) -> Any:
    """ToMe's matching by keys [batch, heads, tokens, dim], averaged over heads, as a function that sums the tokens of each target.

    Even tokens, CLS apart, name their most similar odd one, and the r most similar pairs merge. Targets: even tokens that stay, odd ones.
    """
    batch, _, tokens, _ = keys.shape
    unit = F.normalize(keys.float().mean(1), dim=-1, eps=1e-6)
    scores = unit[:, 0::2] @ unit[:, 1::2].mT
    scores[:, 0] = -torch.inf
    best, nearest = scores.max(-1)
    order = best.argsort(-1, descending=True)
    first = torch.arange(batch, device=keys.device)[:, None] * tokens  # rows of all examples, one after another
    gone, stay = order[:, :r], order[:, r:].sort(-1).values
    goes_to = (torch.arange(batch, device=keys.device)[:, None] * (tokens // 2) + nearest.gather(1, gone)).flatten()
    gone, stay = (first + 2 * gone).flatten(), (first + 2 * stay).flatten()

    def sum_groups(x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        odd = x[:, 1::2].flatten(0, 1).index_add(0, goes_to, rows.index_select(0, gone))
        return torch.cat([rows.index_select(0, stay).view(batch, -1, x.shape[-1]), odd.view(batch, -1, x.shape[-1])], 1)

    return sum_groups


class VisionTransformer(nn.Module):
    """Logits [batch, classes] of images [batch, rows, columns, 3], from our stacked parameters."""

    def __init__(self, problem: MergingProblem, params: dict[str, Any]):
        super().__init__()
        self.problem, layers = problem, params["layers"]
        attention = layers["attention"]
        names = ("query", "key", "value")
        fused = {"qkv": np.concatenate([attention[name] for name in names], axis=2)}
        fused["qkv_bias"] = np.concatenate([attention[f"{name}_bias"] for name in names], axis=1)
        flat = fused | {name: attention[name] for name in ("output", "output_bias")}
        flat |= {name: value for name, value in layers.items() if name != "attention"}
        self.layers = nn.ModuleList(
            tensors({name: value[index] for name, value in flat.items()}) for index in range(problem.depth)
        )
        self.outer = tensors({name: value for name, value in params.items() if name != "layers"})

    def forward(self, images: Tensor) -> Tensor:
        problem, outer = self.problem, self.outer
        batch, across, width, patch = len(images), problem.across, problem.width, problem.patch
        parts = images.view(batch, across, patch, across, patch, 3).transpose(2, 3).reshape(batch, across**2, -1)
        x = F.linear(parts, outer["patches"], outer["patches_bias"])
        x = torch.cat([outer["cls"].expand(batch, 1, width), x], 1) + outer["positions"]
        size = None
        for layer, r in zip(self.layers, problem.schedule, strict=True):
            read = norm(x, layer, "attention_norm")
            qkv = F.linear(read, layer["qkv"], layer["qkv_bias"])
            query, key, value = qkv.view(batch, -1, 3, problem.heads, width // problem.heads).permute(2, 0, 3, 1, 4)
            bias = None if size is None else size.log().view(batch, 1, 1, -1).to(x.dtype)
            mixed = F.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)
            x = x + scaled(F.linear(mixed, layer["output"], layer["output_bias"]), layer, "attention_scale")
            if r:
                sum_groups = bipartite_merge(key, r)
                size = torch.ones(batch, x.shape[1], 1, device=x.device) if size is None else size
                total, size = sum_groups(x * size), sum_groups(size)
                x = (total / size).to(x.dtype)
            hidden = F.gelu(F.linear(norm(x, layer, "mlp_norm"), layer["mlp_in"], layer["mlp_in_bias"]))
            x = x + scaled(F.linear(hidden, layer["mlp_out"], layer["mlp_out_bias"]), layer, "mlp_scale")
        return F.linear(norm(x[:, 0], outer, "norm"), outer["head"], outer["head_bias"])


def norm(x: Tensor, params: nn.ParameterDict, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], params[name], params[f"{name}_bias"], 1e-6)


def scaled(x: Tensor, params: nn.ParameterDict, name: str) -> Tensor:
    return x * params[name] if name in params else x


def tensors(arrays: dict[str, np.ndarray]) -> nn.ParameterDict:
    """Kernels [in, out] become PyTorch's [out, in]; CLS and positions, which are no kernels, stay."""
    turned = {name: array.T if array.ndim == 2 and name != "positions" else array for name, array in arrays.items()}
    return nn.ParameterDict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in turned.items()})
