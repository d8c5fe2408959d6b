"""A published language model that goes on from prompts greedily: a token a forward, or with recycled drafts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lexinv.validation import Checked, Count


@dataclass(frozen=True)
class DraftingProblem(Checked):
    """A call goes on from all prompts, one after the other, by `steps` tokens each; `steps` counts a call's tokens.

    path: of the model, or "" for a tiny untrained one. nodes: drafted in a forward; 0 for none. corpus: its documents begin as the prompts.
    """

    path: str
    nodes: int
    corpus: str = "python-stdlib"
    prompts: Count = 6
    prompt: Count = 64
    each: Count = 48

    @property
    def steps(self) -> int:
        return self.prompts * self.each

    def ours(self) -> Callable[[], Any]:
        import jax
        import jax.numpy as jnp

        from lexinv.decoding.drafts import recycling
        from lexinv.decoding.speculation import speculate
        from lexinv.decoding.trees import PUBLISHED, likeliest
        from lexinv.nn.cache import empty_cache, make_extend
        from lexinv.nn.generation import generate
        from lexinv.nn.sampling import Sampling

        config, vocab, params, prompts = opened(self.path, self.corpus, self.prompts, self.prompt)
        extend, room = make_extend(config, vocab), self.prompt + self.each + self.nodes
        count, keys = jnp.array([self.prompt]), jax.random.split(jax.random.key(0), 1)
        draft = recycling(likeliest(self.nodes, PUBLISHED)) if self.nodes else None

        def call() -> list[np.ndarray]:
            texts, matrix = [], jnp.zeros((vocab, 8), jnp.int32)
            for row in range(len(prompts)):
                cache = empty_cache(config, 1, room)
                given = params, params["table"], cache, prompts[row : row + 1], count, keys, self.each, Sampling(0.0)
                if draft is None:
                    texts.append(np.asarray(generate(extend, *given).tokens))
                else:
                    told = speculate(extend, *given, draft, matrix)
                    matrix = told.state
                    texts.append(np.asarray(told.tokens))
            return texts

        return call


@cache
def opened(path: str, corpus: str, prompts: int, length: int) -> tuple[Any, int, Any, Any]:
    """Configuration, vocabulary, parameters and prompts: once for all problems of a process."""
    import jax.numpy as jnp

    from experiments.subjects.pretrained_language_model import read_pretrained, untrained
    from lexinv.data.corpora import load_corpus
    from lexinv.nn.cache import unstacked
    from lexinv.nn.language_model import BOS

    texts = load_corpus(corpus)
    world = read_pretrained(Path(path)) if path else untrained(texts)
    windows = world.windows(texts.splits["test"], length - 1)
    chosen = np.insert(windows[windows[:, -1] >= 0][:prompts], 0, BOS, axis=1)
    return world.model.config, world.model.vocab, unstacked(world.model.params), jnp.asarray(chosen)
