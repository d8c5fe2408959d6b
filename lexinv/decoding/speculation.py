"""Going on from prompts with several tokens a forward: drafts are read as a tree, and what the model would have drawn itself is kept.

Noise belongs to a place in a sequence (`lexinv.nn.sampling.draw`), so that the text is that of `lexinv.nn.generation.generate` token for
token, at every temperature and for every draft; published code compares greedy tokens only, or is equal in distribution.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lexinv.decoding.trees import Tree, Verified, verify
from lexinv.nn.cache import Cache, Extend, keep
from lexinv.nn.language_model import Params
from lexinv.nn.sampling import Sampling, gumbel_noise, truncate
from lexinv.validation import require


class Text(NamedTuple):
    """What a draft goes on from: `root` follows the first `length` tokens of each sequence. keys, sampling: the model draws with them."""

    tokens: Int[Array, "batch slots"]
    length: Int[Array, " batch"]
    root: Int[Array, " batch"]
    keys: Key[Array, " batch"]
    sampling: Sampling


class Seen(NamedTuple):
    """What the model said to a draft: the logits after each of its tokens."""

    tokens: Int[Array, "batch n"]
    logits: Float[Array, "batch n vocab"]
    verified: Verified


class Draft(NamedTuple):
    """A way to guess what follows, as functions of a state that it begins anew or keeps from one text to the next.

    begin(state, prompt, count) -> state; propose(state, text) -> (tokens [batch, n], state), the root's first; learn(state, seen) -> state.
    The same object gives the same program.
    """

    tree: Tree
    begin: Callable[[Any, Array, Array], Any]
    propose: Callable[[Any, Text], tuple[Array, Any]]
    learn: Callable[[Any, Seen], Any]


class Speculated(NamedTuple):
    """tokens, alive: as of `lexinv.nn.generation.generate`. forwards: of the model for each sequence, the prompt's own not among them."""

    tokens: Int[Array, "batch steps"]
    alive: Bool[Array, "batch steps"]
    forwards: Int[Array, " batch"]
    state: Any


class _Loop(NamedTuple):
    cache: Cache
    root: Int[Array, " batch"]
    done: Int[Array, " batch"]
    alive: Bool[Array, " batch"]
    written: Int[Array, "batch steps"]
    forwards: Int[Array, " batch"]
    state: Any


def speculate(
    extend: Extend,
    params: Params,
    table: Float[Array, "*lexica vocab width"],
    cache: Cache,
    prompt: Int[Array, "batch prompt"],
    count: Int[Array, " batch"],
    keys: Key[Array, " batch"],
    steps: int,
    sampling: Sampling,
    draft: Draft,
    state: Any,
    stop: Sequence[int] = (),
) -> Speculated:
    """`lexinv.nn.generation.generate` in fewer forwards, where `draft` guesses rightly; `state` is the draft's.

    Raises `InvalidConfig` where an empty cache has too few slots for the prompt, the new tokens and one draft, and for a bad sampling.
    """
    sampling.check()
    require(steps >= 1, "steps", steps, "at least 1")
    slots, needed = cache.tokens.shape[1], prompt.shape[1] + steps - 2 + len(draft.tree)
    require(slots >= needed, "cache", slots, f"at least {needed} slots, for the prompt, the tokens and a draft")
    ends = jnp.asarray(stop, jnp.int32).reshape(-1)
    return _speculate(
        extend, draft, params, table, cache, prompt, jnp.asarray(count), keys, steps, sampling, ends, state
    )


@partial(jax.jit, static_argnames=("extend", "draft", "steps"))
def _speculate(extend, draft, params, table, cache, prompt, count, keys, steps, sampling, stop, state) -> Speculated:
    tree, batch = draft.tree, len(prompt)
    rows, ahead = jnp.arange(batch)[:, None], jnp.arange(int(tree.depth.max()) + 1)[None]
    state = draft.begin(state, prompt, count)
    if prompt.shape[1] > 1:
        cache = extend(params, table, cache, prompt[:, :-1], count - 1)[1]

    def go_on(now: _Loop) -> _Loop:
        before = now.cache.length
        tokens, state = draft.propose(now.state, Text(now.cache.tokens, before, now.root, keys, sampling))
        logits, cache = extend(
            params,
            table,
            now.cache,
            tokens,
            jnp.full(batch, len(tree)),
            jnp.asarray(tree.depth),
            jnp.asarray(tree.visible),
        )
        noise = jax.vmap(lambda d: gumbel_noise(keys, before + d + 1, logits.shape[-1]), out_axes=1)(ahead[0])
        chosen = jnp.argmax(truncate(logits, *sampling) + noise[:, tree.depth], axis=-1).astype(jnp.int32)
        verified = verify(tree, tokens, chosen)
        new = jnp.take_along_axis(chosen, verified.path, axis=1)
        ended = jnp.any(new[..., None] == stop[None, None], axis=-1)
        fresh = now.alive[:, None] & (ahead <= verified.accepted[:, None]) & (now.done[:, None] + ahead < steps)
        fresh &= jnp.cumsum(ended, axis=1) == ended.astype(jnp.int32)  # not after a stop
        written = now.written.at[rows, jnp.where(fresh, now.done[:, None] + ahead, steps)].set(new, mode="drop")
        done = now.done + jnp.sum(fresh, axis=1)
        return _Loop(
            keep(cache, before, verified.path, jnp.where(now.alive, verified.accepted + 1, 0)),
            verified.bonus,
            done,
            now.alive & (done < steps) & ~jnp.any(fresh & ended, axis=1),
            written,
            now.forwards + now.alive.astype(jnp.int32),
            draft.learn(state, Seen(tokens, logits, verified)),
        )

    last = jnp.take_along_axis(prompt, count[:, None] - 1, axis=1)[:, 0].astype(jnp.int32)
    none = jnp.zeros(batch, jnp.int32)
    start = _Loop(cache, last, none, jnp.ones(batch, bool), jnp.zeros((batch, steps), jnp.int32), none, state)
    end = jax.lax.while_loop(lambda now: jnp.any(now.alive), go_on, start)
    return Speculated(end.written, jnp.arange(steps)[None] < end.done[:, None], end.forwards, end.state)
