"""One layer's attention over a long cache as it is measured in decode steps: all of it, or selected tokens; ours and PyTorch's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.benchmarks.problems import torch_device
from lexinv.merging.cache_selection import Selection
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import Checked, Count


@dataclass(frozen=True)
class SelectionProblem(Checked):
    """A call is `steps` decode steps of one token over `slots` cached ones. full: of keys that are rotated already, as they are then kept.

    period: tokens in a row with one query, so that with `selection.theta` below 1 a choice serves so many steps.
    """

    heads: Count = 9
    key_heads: Count = 3
    dim: Count = 64
    slots: Count = 4096
    selection: Selection = Selection("soft", k=512, first=16, local=128)
    period: Count = 8
    steps: Count = 16

    @property
    def model(self) -> TransformerConfig:
        return TransformerConfig(
            depth=1,
            width=self.heads * self.dim,
            heads=self.heads,
            key_heads=self.key_heads,
            max_length=self.slots,
        )

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries [steps, heads, dim], keys and values [key_heads, slots, dim]; none rotated."""
        rng = np.random.default_rng(0)
        queries = rng.normal(size=(-(-self.steps // self.period), self.heads, self.dim))
        keys, values = rng.normal(size=(2, self.key_heads, self.slots, self.dim))
        repeated = np.repeat(2 * queries, self.period, axis=0)[: self.steps]
        return repeated.astype(np.float32), keys.astype(np.float32), values.astype(np.float32)

    def ours(self) -> Callable[[], Any]:
        """The outputs [steps, heads, dim]."""
        import jax
        import jax.numpy as jnp

        from lexinv.merging.selective_cache import attend_in_chunks, empty_selective_cache
        from lexinv.nn.slots import Slots, attention_to_slots

        queries, keys, values = map(jnp.asarray, self.arrays)
        slots, before = Slots(keys[None], values[None], None), jnp.int32(self.slots - self.steps)

        @jax.jit
        def full(queries: Any, slots: Any) -> Any:
            def step(given: Any) -> Any:
                query, length = given
                seen = (jnp.arange(self.slots) < length)[None, None]
                return attention_to_slots(query[None, None], slots, seen, length)[0, 0]

            return jax.lax.map(step, (queries, before + 1 + jnp.arange(self.steps)))

        @jax.jit
        def selected(queries: Any, slots: Any) -> Any:
            memory = empty_selective_cache(self.model, self.selection, self.slots).layers[0]._replace(slots=slots)
            given = self.model, self.selection, 1, before, jnp.int32(self.steps)
            return attend_in_chunks(*given, memory, queries)[0]

        call = full if self.selection.policy == "full" else selected
        return lambda: jax.block_until_ready(call(queries, slots))

    def theirs(self, compiled: Literal[False]) -> Callable[[], Any]:
        """The same in PyTorch, written for it."""
        import torch
        from torch.nn import functional

        s, group, device = self.selection, self.heads // self.key_heads, torch_device()
        queries, keys, values = (torch.from_numpy(x).to(device) for x in self.arrays)
        frequencies = 10_000.0 ** (-torch.arange(self.dim // 2, device=device) / (self.dim // 2))
        angles = torch.arange(s.first + s.k + s.local, device=device)[:, None] * frequencies
        cosine, sine = angles.cos(), angles.sin()

        def turn(x: Any, cosine: Any, sine: Any) -> Any:
            first, second = x.chunk(2, dim=-1)
            return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

        def step(query: Any, length: int) -> Any:
            voting = turn(query, cosine[s.local], sine[s.local]).view(self.key_heads, group, self.dim)
            middle = keys[:, s.first : length - s.local]
            votes = functional.softmax(voting @ middle.mT * self.dim**-0.5, dim=-1).sum((0, 1))
            chosen = votes.topk(s.k, sorted=False).indices.sort().values + s.first
            ends = torch.arange(s.first, device=device), torch.arange(length - s.local, length, device=device)
            kept = torch.cat([ends[0], chosen, ends[1]])
            near = turn(keys.index_select(1, kept), cosine, sine)
            last = turn(query, cosine[-1], sine[-1]).view(self.key_heads, group, self.dim)
            return functional.scaled_dot_product_attention(last, near, values.index_select(1, kept)).flatten(0, 1)

        @torch.inference_mode()
        def call() -> Any:
            before = self.slots - self.steps
            return torch.stack([step(query, before + 1 + at) for at, query in enumerate(queries)]).cpu()

        return call
