"""Forward passes of a Vision Transformer with merging, and matching alone, as they are measured: in our library and in PyTorch."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lexinv.merging.costs import model_flops
from lexinv.merging.schedules import linear_schedule, token_counts
from lexinv.nn.vision_transformer import LAYERS, Params, VisionConfig
from lexinv.validation import choose, require

PATCH = 16


@dataclass(frozen=True)
class MergingProblem:
    """Images of across x across patches of 16 pixels, and CLS; every layer merges r tokens by ToMe's bipartite matching.

    plans: "made" in every layer of every pass; "given": made beforehand, so that what matching takes is the difference (ours only).
    dtype: of the layers, in both libraries; similarities and sums of merged tokens are float32 in any case.
    """

    depth: int = 12
    width: int = 384
    heads: int = 6
    mlp_width: int = 1536
    across: int = 14
    batch_size: int = 8
    classes: int = 1000
    r: int = 0
    plans: Literal["made", "given"] = "made"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name in ("depth", "width", "heads", "mlp_width", "across", "batch_size", "classes"):
            require(getattr(self, name) >= 1, f"problem.{name}", getattr(self, name), "at least 1")
        require(self.width % self.heads == 0, "problem.heads", self.heads, f"a divisor of width {self.width}")
        require(self.r >= 0, "problem.r", self.r, "0 or more tokens a layer")
        choose("problem.plans", self.plans, ("made", "given"))
        choose("problem.dtype", self.dtype, ("float32", "bfloat16"))

    @property
    def model(self) -> VisionConfig:
        sizes = {"depth": self.depth, "width": self.width, "heads": self.heads, "mlp_width": self.mlp_width}
        layers = replace(LAYERS, **sizes, attention="auto", dtype=self.dtype)
        return VisionConfig(self.across * PATCH, PATCH, 3, self.classes, True, "cls", layers)

    @property
    def tokens(self) -> int:
        """Tokens of the first layer, CLS among them."""
        return self.across**2 + 1

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens that each layer removes: r, clipped at half of those that are left."""
        return linear_schedule(self.tokens, self.depth, self.r)

    @property
    def flops(self) -> int:
        """Multiply-adds of the layers, the patches and the head for one image."""
        outside = self.across**2 * 3 * PATCH**2 * self.width + self.width * self.classes
        return model_flops(token_counts(self.tokens, self.schedule), self.width, self.mlp_width) + outside


@dataclass(frozen=True)
class MatchingProblem:
    """Matching alone on a grid of tokens: from features [batch, height x width, dim] to which r tokens merge into which (ToMe-SD)."""

    batch_size: int = 8
    height: int = 14
    width: int = 14
    dim: int = 64
    r: int = 13

    def __post_init__(self):
        for name in ("batch_size", "dim", "r"):
            require(getattr(self, name) >= 1, f"problem.{name}", getattr(self, name), "at least 1")
        for name in ("height", "width"):
            require(getattr(self, name) >= 2, f"problem.{name}", getattr(self, name), "at least a cell of 2")

    @property
    def metric(self) -> np.ndarray:
        """Random features, float32[batch, tokens, dim]."""
        shape = (self.batch_size, self.height * self.width, self.dim)
        return np.random.default_rng(0).standard_normal(shape, np.float32)


def random_images(problem: MergingProblem) -> np.ndarray:
    """The one batch that every pass of a problem is given, float32[batch, rows, columns, 3]."""
    size = problem.model.size
    return np.random.default_rng(0).standard_normal((problem.batch_size, size, size, 3), np.float32)


def random_params(problem: MergingProblem) -> Params:
    """Parameters as those of `lexinv.nn.vision_transformer.initialize`, none of them 0, so that all of them matter."""
    depth, width, mlp, draw = problem.depth, problem.width, problem.mlp_width, np.random.default_rng(1).standard_normal

    def kernel(*shape: int) -> np.ndarray:
        return draw(shape, np.float32) * np.float32(shape[-2] ** -0.5)

    def small(*shape: int) -> np.ndarray:
        return np.float32(0.02) * draw(shape, np.float32)

    attention = {name: kernel(depth, width, width) for name in ("query", "key", "value", "output")}
    layers: Params = {
        "attention": attention | {f"{name}_bias": small(depth, width) for name in attention},
        "mlp_in": kernel(depth, width, mlp),
        "mlp_in_bias": small(depth, mlp),
        "mlp_out": kernel(depth, mlp, width) * np.float32((2 * depth) ** -0.5),
        "mlp_out_bias": small(depth, width),
    }
    for name in ("attention_norm", "mlp_norm"):
        layers |= {name: 1 + small(depth, width), f"{name}_bias": small(depth, width)}
    return {
        "patches": kernel(3 * PATCH**2, width),
        "patches_bias": small(width),
        "cls": small(width),
        "positions": small(problem.tokens, width),
        "layers": layers,
        "norm": 1 + small(width),
        "norm_bias": small(width),
        "head": kernel(width, problem.classes),
        "head_bias": small(problem.classes),
    }


class JaxForward:
    """Our forward pass, one jitted program; a call waits for its logits, float32[batch, classes]."""

    def __init__(self, problem: MergingProblem):
        import jax

        from lexinv.merging.bipartite import bipartite_matching
        from lexinv.merging.plan import merge
        from lexinv.merging.reduction import reduction
        from lexinv.nn.reduced import Reduced, unstack
        from lexinv.nn.vision_transformer import classify

        def matching(r):
            return reduction(lambda example: bipartite_matching(example.cosines, r))

        def given(plan):
            return lambda seen: Reduced(*jax.vmap(merge)(plan, seen.stream, seen.size), None)

        def forward(params, images, plans):
            reductions: Any = [given(plan) for plan in plans] or [matching(r) for r in problem.schedule if r]
            return classify(problem.model, params, images, reductions)

        self.forward = jax.jit(lambda *arguments: forward(*arguments)[0])
        params = random_params(problem)
        params = {**params, "layers": unstack(params["layers"])}
        self.arguments = (*jax.device_put((params, random_images(problem))), [])
        if problem.plans == "given":
            plans = jax.jit(lambda *arguments: forward(*arguments)[1])(*self.arguments)
            self.arguments = (*self.arguments[:2], plans)

    def __call__(self) -> np.ndarray:
        return np.asarray(self.forward(*self.arguments))

    def programs(self) -> int:
        """How many programs the calls so far have compiled."""
        return self.forward._cache_size()


def jax_forward(problem: MergingProblem, compiled: bool) -> JaxForward:
    """Our forward pass; `compiled` says nothing, since it always is."""
    del compiled
    return JaxForward(problem)


def timed_start(problem: MergingProblem) -> dict[str, Any]:
    """Seconds from nothing to the first logits: `prepare` (imports and parameters), `trace`, `compile` (or loading what a cache holds),
    `run`. And `programs`, how many two further calls through `jax.jit` leave in its cache.
    """
    import jax

    times = [time.perf_counter()]

    def lap() -> float:
        times.append(time.perf_counter())
        return times[-1] - times[-2]

    ours = JaxForward(problem)
    seconds = {"prepare": lap()}
    lowered = ours.forward.lower(*ours.arguments)
    seconds["trace"] = lap()
    program = lowered.compile()
    seconds["compile"] = lap()
    jax.block_until_ready(program(*ours.arguments))
    seconds["run"] = lap()
    for _ in range(2):
        ours()
    return {**seconds, "programs": ours.programs()}


def jax_matching(problem: MatchingProblem, compiled: bool) -> Callable[[], Any]:
    """Our matching from features to plans, in one program."""
    import jax

    from lexinv.merging.bipartite import cosines, grid_matching

    del compiled

    @jax.jit
    @jax.vmap
    def match(metric):
        return grid_matching(cosines(metric), problem.r, problem.height, problem.width)

    metric = jax.device_put(problem.metric)
    return lambda: jax.block_until_ready(match(metric))


def torch_forward(problem: MergingProblem, compiled: bool) -> Callable[[], np.ndarray]:
    """The same pass in PyTorch, on its accelerator if there is one."""
    import torch

    from experiments.benchmarks.torch_merging import VisionTransformer

    require(problem.plans == "made", "problem.plans", problem.plans, "'made' in PyTorch")
    device = torch_device()
    model = VisionTransformer(problem, random_params(problem)).to(device, getattr(torch, problem.dtype)).eval()
    forward = torch.compile(model) if compiled else model
    images = torch.from_numpy(random_images(problem)).to(device, getattr(torch, problem.dtype))

    def call() -> np.ndarray:
        with torch.inference_mode():
            return forward(images).float().cpu().numpy()

    return call


def torch_matching(problem: MatchingProblem, compiled: bool) -> Callable[[], Any]:
    """Matching by `tomesd`, which gives functions that merge and unmerge; they are not called."""
    import torch
    from tomesd.merge import bipartite_soft_matching_random2d

    del compiled
    device = torch_device()
    metric = torch.from_numpy(problem.metric).to(device)

    def call() -> Any:
        with torch.inference_mode():
            found = bipartite_soft_matching_random2d(
                metric, problem.width, problem.height, 2, 2, problem.r, no_rand=True
            )
            if device.type == "cuda":
                torch.cuda.synchronize()
            return found

    return call


def torch_device() -> Any:
    """PyTorch's accelerator or the processor, with as many threads as this process has cores."""
    import torch

    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
