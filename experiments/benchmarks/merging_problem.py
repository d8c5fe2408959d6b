"""Forward passes of Transformers with merging, and matching alone, as they are measured: in our library and in PyTorch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from experiments.benchmarks.problems import torch_device
from lexinv.merging.costs import model_flops
from lexinv.merging.schedules import linear_schedule, token_counts
from lexinv.nn.transformer import Block, TransformerConfig
from lexinv.nn.vision_transformer import LAYERS, Params, VisionConfig, classify, initialize
from lexinv.validation import Checked, Count, CountOrZero, Share, require

WORDS = 1000
"""Of a text encoder's vocabulary, whose size does not matter to its speed."""


@dataclass(frozen=True)
class MergingProblem(Checked):
    """Images of across x across patches of `patch` pixels, and CLS; every layer merges r tokens by ToMe's bipartite matching.

    text: tokens of texts without padding, which a text encoder reads; 0 for images. plans: "made" in every layer of every pass; "given":
    made beforehand, so that what matching takes is the difference (ours only). dtype: of the layers, in both libraries; similarities and
    sums of merged tokens are float32 in any case.
    """

    depth: Count = 12
    width: Count = 384
    heads: Count = 6
    mlp_width: Count = 1536
    across: Count = 14
    patch: Count = 16
    layer_scale: bool = False
    text: CountOrZero = 0
    batch_size: Count = 8
    classes: Count = 1000
    r: CountOrZero = 0
    plans: Literal["made", "given"] = "made"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def checks(self):
        yield self.width % self.heads == 0, "heads", f"a divisor of width {self.width}"

    @property
    def layers(self) -> TransformerConfig:
        sizes = {"depth": self.depth, "width": self.width, "heads": self.heads, "mlp_width": self.mlp_width}
        layers = replace(LAYERS, **sizes, attention="auto", dtype=self.dtype, layer_scale=self.layer_scale)
        return replace(layers, residual="post", norm_epsilon=1e-12, max_length=self.text) if self.text else layers

    @property
    def model(self) -> VisionConfig:
        return VisionConfig(self.across * self.patch, self.patch, 3, self.classes, True, "cls", self.layers)

    @property
    def tokens(self) -> int:
        """Tokens of the first layer, CLS among them."""
        return self.text or self.across**2 + 1

    @property
    def schedule(self) -> tuple[int, ...]:
        """Tokens that each layer removes: r, clipped at half of those that are left."""
        return linear_schedule(self.tokens, self.depth, self.r)

    @property
    def flops(self) -> int:
        """Multiply-adds of the layers for one text, or of the layers, the patches and the head for one image."""
        outside = self.across**2 * 3 * self.patch**2 * self.width + self.width * self.classes
        layers = model_flops(token_counts(self.tokens, self.schedule), self.width, self.mlp_width)
        return layers + (0 if self.text else outside)

    def ours(self) -> Callable[[], np.ndarray]:
        """Our forward pass; a call waits for its logits or embeddings."""
        forward, arguments = jax_program(self)
        return lambda: np.asarray(forward(*arguments))

    def theirs(self, compiled: bool) -> Callable[[], np.ndarray]:
        """The same pass in PyTorch, on its accelerator if there is one."""
        import torch

        from experiments.benchmarks.torch_merging import VisionTransformer

        del compiled
        require(self.plans == "made", "plans", self.plans, "'made' in PyTorch")
        require(not self.text, "text", self.text, "0 in PyTorch")
        device, dtype = torch_device(), getattr(torch, self.dtype)
        model = VisionTransformer(self, random_params(self)).to(device, dtype).eval()
        images = torch.from_numpy(random_inputs(self)).to(device, dtype)
        return torch.inference_mode()(lambda: model(images).float().cpu().numpy())


@dataclass(frozen=True)
class AppliedProblem(Checked):
    """A model of images as users have it: by `apply`, with a method in layers that each keep `ratio` of their patches; 1 is all of them."""

    model: MergingProblem
    method: str = "tome"
    ratio: Share = 1.0

    def ours(self) -> Callable[[], np.ndarray]:
        """A pass; a call waits for the tokens that are left."""
        import jax

        from lexinv.merging.methods import apply

        params, images = jax.device_put((random_params(self.model), random_inputs(self.model)))
        encode = apply(self.model.model, params, self.method, self.ratio)
        return lambda: np.asarray(encode(images).tokens)


@dataclass(frozen=True)
class MatchingProblem(Checked):
    """Matching alone on a grid of tokens: from features [batch, height x width, dim] to which r tokens merge into which (ToMe-SD)."""

    batch_size: Count = 8
    height: Count = 14
    width: Count = 14
    dim: Count = 64
    r: Count = 13

    def checks(self):
        yield self.height >= 2, "height", "at least a cell of 2"
        yield self.width >= 2, "width", "at least a cell of 2"

    @property
    def metric(self) -> np.ndarray:
        """Random features, float32[batch, tokens, dim]."""
        shape = (self.batch_size, self.height * self.width, self.dim)
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def ours(self) -> Callable[[], Any]:
        """Our matching from features to plans, in one program."""
        import jax

        from lexinv.merging.bipartite import cosines, grid_matching

        @jax.jit
        @jax.vmap
        def match(metric):
            return grid_matching(cosines(metric), self.r, self.height, self.width)

        metric = jax.device_put(self.metric)
        return lambda: jax.block_until_ready(match(metric))

    def theirs(self, compiled: bool) -> Callable[[], Any]:
        """Matching by `tomesd`, which gives functions that merge and unmerge; they are not called."""
        import torch
        from tomesd.merge import bipartite_soft_matching_random2d

        del compiled
        device = torch_device()
        metric = torch.from_numpy(self.metric).to(device)

        @torch.inference_mode()
        def call() -> Any:
            found = bipartite_soft_matching_random2d(metric, self.width, self.height, 2, 2, self.r, no_rand=True)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return found

        return call


def random_inputs(problem: MergingProblem) -> np.ndarray:
    """The one batch that every pass of a problem is given: images float32[batch, rows, columns, 3], or texts int32[batch, tokens]."""
    draw = np.random.default_rng(0)
    if problem.text:
        return draw.integers(WORDS, size=(problem.batch_size, problem.text), dtype=np.int32)
    size = problem.model.size
    return draw.standard_normal((problem.batch_size, size, size, 3), np.float32)


def random_params(problem: MergingProblem) -> Params:
    """Random parameters of `lexinv.nn.vision_transformer` or `lexinv.nn.text_encoder`, none of them 0, so that all of them matter."""
    import jax
    import jax.numpy as jnp

    draw, config = np.random.default_rng(1).standard_normal, problem.layers

    def fill(path: Any, leaf: Any) -> np.ndarray:
        names, noise = [step.key for step in path], draw(leaf.shape, np.float32)
        if names[-1].endswith(("norm", "scale")):
            return 1 + 0.02 * noise
        kernel = leaf.ndim - ("layers" in names) == 2 and names[-1] != "positions"
        return noise * np.float32(leaf.shape[-2] ** -0.5) if kernel else 0.02 * noise

    def start(key: Any) -> Any:
        if not problem.text:
            return initialize(problem.model, key)
        one = jnp.zeros((1, 1, config.width))
        layers = jax.vmap(lambda key: Block(config, False).init(key, one, None)["params"])(
            jax.random.split(key, config.depth)
        )
        rows = {"words": WORDS, "positions": config.max_length, "types": 1}
        found = {name: jnp.zeros((count, config.width)) for name, count in rows.items()}
        return found | {"norm": one[0, 0], "norm_bias": one[0, 0], "layers": layers}

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(start, jax.random.key(0)))


def jax_program(problem: MergingProblem) -> tuple[Any, tuple[Any, ...]]:
    """Our forward pass, jitted, to logits float32[batch, classes] or embeddings float32[batch, width]; and its arguments."""
    import jax

    from lexinv.merging.bipartite import bipartite_matching
    from lexinv.merging.plan import merge
    from lexinv.merging.reduction import reduction
    from lexinv.nn.reduced import Reduced, run_layers, unstack
    from lexinv.nn.text_encoder import embed_tokens, pool

    def matching(r):
        return reduction(lambda example: bipartite_matching(example.cosines, r)) if r else None

    def given(plan):
        return lambda seen: Reduced(*jax.vmap(merge)(plan, seen.stream, seen.size), None)

    def forward(params, inputs, plans):
        made: Any = [matching(r) for r in problem.schedule]
        left = iter(plans)
        reductions = [given(next(left)) if reduce and plans else reduce for reduce in made]
        if not problem.text:
            return classify(problem.model, params, inputs, reductions)
        x = embed_tokens(problem.layers, params, inputs)
        hidden, size, handed_on = run_layers(problem.layers, params["layers"], x, None, reductions)
        return pool(hidden, size), handed_on

    params = random_params(problem)
    params = {**params, "layers": unstack(params["layers"])}
    inputs = jax.device_put((params, random_inputs(problem)))
    plans = jax.jit(lambda *inputs: forward(*inputs, [])[1])(*inputs) if problem.plans == "given" else []
    return jax.jit(lambda *arguments: forward(*arguments)[0]), (*inputs, plans)


def timed_start(problem: MergingProblem) -> dict[str, Any]:
    """Seconds from nothing to the first logits: `prepare` (imports and parameters), `trace`, `compile` (or loading what a cache holds),
    `run`. And `programs`, how many two further calls through `jax.jit` leave in its cache.
    """
    import jax

    times = [time.perf_counter()]

    def lap() -> float:
        times.append(time.perf_counter())
        return times[-1] - times[-2]

    forward, arguments = jax_program(problem)
    seconds = {"prepare": lap()}
    lowered = forward.lower(*arguments)
    seconds["trace"] = lap()
    program = lowered.compile()
    seconds["compile"] = lap()
    jax.block_until_ready(program(*arguments))
    seconds["run"] = lap()
    for _ in range(2):
        jax.block_until_ready(forward(*arguments))
    return {**seconds, "programs": forward._cache_size()}
