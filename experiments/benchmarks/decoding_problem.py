"""Going on from a prompt as it is measured: with a cache, by reading everything again for each token, and in PyTorch with its own cache."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.benchmarks.problems import torch_device
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import Checked, Count, NonNegative


@dataclass(frozen=True)
class DecodingProblem(Checked):
    """A call draws `steps` tokens for each of `batch` prompts, in a cache of so many slots.

    way: `cached`; `again`, which reads the whole text for each token; or `nodes`, forwards of `nodes` tokens at the end of a text that is
    remembered, which forget them.
    """

    model: TransformerConfig
    vocab: Count = 2048
    batch: Count = 1
    prompt: Count = 64
    steps: Count = 256
    slots: Count = 384
    way: Literal["cached", "again", "nodes"] = "cached"
    nodes: Count = 1
    temperature: NonNegative = 1.0

    def checks(self):
        room = self.slots - self.prompt - max(self.steps, self.nodes)
        yield room >= 0, "slots", f"at least {self.slots - room}, for the prompt and what follows"

    @property
    def prompts(self) -> np.ndarray:
        """BOS first, and then any tokens."""
        tokens = np.random.default_rng(0).integers(0, self.vocab, (self.batch, self.prompt)).astype(np.int32)
        tokens[:, 0] = -1
        return tokens

    def params(self) -> Any:
        import jax

        from lexinv.nn.language_model import initialize

        return initialize(self.model, LexiconConfig(), self.vocab, jax.random.key(0))

    def ours(self) -> Callable[[], Any]:
        """Tokens, or logits of nodes, of one compiled program."""
        import jax

        call, given = {"cached": cached, "again": again, "nodes": at_the_end}[self.way](self)
        return lambda: jax.block_until_ready(call(*given))

    def theirs(self, compiled: bool) -> Callable[[], Any]:
        """PyTorch's tokens."""
        return torch_texts(self, compiled)


def cached(problem: DecodingProblem) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and what it is given, as for the other ways."""
    import jax
    import jax.numpy as jnp

    from lexinv.nn.cache import empty_cache, make_extend, unstacked
    from lexinv.nn.generation import generate
    from lexinv.nn.sampling import Sampling

    params, count = unstacked(problem.params()), jnp.full(problem.batch, problem.prompt)
    extend, cache = make_extend(problem.model, problem.vocab), empty_cache(problem.model, problem.batch, problem.slots)
    keys, sampling = jax.random.split(jax.random.key(1), problem.batch), Sampling(problem.temperature)
    given = (params, params["table"], cache, jnp.asarray(problem.prompts), count, keys, problem.steps, sampling)
    return lambda *given: generate(extend, *given).tokens, given


def again(problem: DecodingProblem) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Logits of the whole text for each token, which is what there is without a cache."""
    import jax
    import jax.numpy as jnp

    from lexinv.nn.language_model import make_logits
    from lexinv.nn.sampling import truncate

    logits_of = make_logits(problem.model, LexiconConfig(), problem.vocab)
    length = problem.prompt - 1 + problem.steps  # without BOS

    @jax.jit
    def texts(params, prompt, key):
        def write(text, place):
            logits = logits_of(params, {"tokens": text, "row": jnp.arange(problem.batch)}, key)
            log_probs = truncate(jnp.take(logits, place, axis=1), problem.temperature)
            token = jax.random.categorical(jax.random.fold_in(key, place), log_probs)
            return text.at[:, place].set(token.astype(jnp.int32)), None

        text = jnp.zeros((problem.batch, length), jnp.int32).at[:, : problem.prompt - 1].set(prompt[:, 1:])
        return jax.lax.scan(write, text, jnp.arange(problem.prompt - 1, length))[0]

    return texts, (problem.params(), problem.prompts, jax.random.key(1))


def at_the_end(problem: DecodingProblem) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`steps` forwards of `nodes` tokens after the prompt, each of which sees the prompt and the ones before it."""
    import jax
    import jax.numpy as jnp

    from lexinv.nn.cache import empty_cache, make_extend, unstacked

    params, extend = unstacked(problem.params()), make_extend(problem.model, problem.vocab)
    cache, none = empty_cache(problem.model, problem.batch, problem.slots), jnp.zeros(problem.batch, jnp.int32)
    _, cache = extend(params, params["table"], cache, problem.prompts, none + problem.prompt)

    @jax.jit
    def forwards(params, cache, nodes):
        def forward(_, state):
            logits, cache = extend(params, params["table"], state[1], state[0], none)
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), cache

        return jax.lax.fori_loop(0, problem.steps, forward, (nodes, cache))[0]

    return forwards, (params, cache, jnp.ones((problem.batch, problem.nodes), jnp.int32))


def torch_texts(problem: DecodingProblem, compiled: bool) -> Callable[[], Any]:
    """The same model's tokens, with keys and values in tensors of `slots` that are written in place and read as far as they are filled."""
    import torch
    from torch.nn import functional

    from experiments.benchmarks.torch_language_model import LanguageModel

    device, config = torch_device(), problem.model
    model = LanguageModel(config, problem.params()).to(device)
    room = (config.depth, 2, problem.batch, config.heads, problem.slots, config.head_dim)
    prompt = torch.from_numpy(problem.prompts[:, 1:]).long().to(device)

    def forward(memory, x, start):
        x = x + model.positions[start : start + x.shape[1]]
        for index, block in enumerate(model.layers):
            x = block.extend(memory[index], x, start)
        features = model.logit_scale * model.readout(model.final_norm(x[:, -1]))
        return functional.linear(features * features.shape[-1] ** -0.5, model.table)

    def choose(logits):
        if problem.temperature == 0:
            return torch.argmax(logits, dim=-1, keepdim=True)
        return torch.multinomial(functional.softmax(logits / problem.temperature, dim=-1), 1)

    once = torch.compile(forward, dynamic=True) if compiled else forward

    @torch.inference_mode()
    def call():
        memory, found = torch.empty(room, device=device), []
        bos = model.bos.expand(problem.batch, 1, -1)
        logits = forward(memory, torch.cat([bos, functional.embedding(prompt, model.table)], dim=1), 0)
        for step in range(problem.steps):
            found.append(choose(logits))
            if step + 1 < problem.steps:
                logits = once(memory, functional.embedding(found[-1], model.table), problem.prompt + step)
        return torch.cat(found, dim=1).cpu()

    return call
