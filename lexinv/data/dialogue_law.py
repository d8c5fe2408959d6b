"""What comes next in a text of `lexinv.data.dialogues`, exactly: given its author, and where the author has to be told from the text."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lexinv.data.dialogues import RESULT, SENTENCE, World


def next_probs(world: World, windows: Int[Array, "rows time"]) -> Float[Array, "rows time authors vocab"]:
    """p(token | those before it in its text, author), exactly; after what is no text of this world it means nothing."""
    length = world.config.length
    found = jax.vmap(lambda text: _next_probs(world, text))(windows.reshape(-1, length))
    return found.reshape(*windows.shape, *found.shape[2:])


def author_log_probs(world: World, windows: Int[Array, "rows time"]) -> Float[Array, "rows time authors"]:
    """ln p of every token under each author, in nats; their sum over a text is what the author gives to it."""
    return jnp.log(_of_tokens(next_probs(world, windows), windows))


def predictive(world: World, windows: Int[Array, "rows time"]) -> Float[Array, "rows time vocab"]:
    """Bayes: p(token | all before it in the window), whose author is not known. No model that reads the same is better."""
    probs = next_probs(world, windows)
    nats = jnp.cumsum(jnp.log(_of_tokens(probs, windows)), axis=1)
    before = jnp.concatenate([jnp.zeros_like(nats[:, :1]), nats[:, :-1]], axis=1) + jnp.log(world.author)[None, None]
    possible = jnp.any(before > -jnp.inf, axis=-1, keepdims=True)
    posterior = jnp.where(possible, jax.nn.softmax(jnp.where(possible, before, 0.0)), world.author[None, None])
    return jnp.einsum("rta,rtav->rtv", posterior, probs)


def _of_tokens(probs: Float[Array, "rows time authors vocab"], windows: Int[Array, "rows time"]) -> Array:
    return jnp.take_along_axis(probs, windows[:, :, None, None], axis=-1)[..., 0]


def _next_probs(world: World, text: Int[Array, " length"]) -> Float[Array, "length authors vocab"]:
    config, first = world.config, world.config.first
    steps, authors = config.steps, config.authors

    def spread(probs: Array, kind: str) -> Array:
        """[..., kind's tokens] as [..., vocab]."""
        before, after = first[kind], config.vocab - first[kind] - probs.shape[-1]
        return jnp.pad(probs, [(0, 0)] * (probs.ndim - 1) + [(before, after)])

    def of_all(probs: Array) -> Array:
        """[n, vocab] that do not depend on the author."""
        return jnp.broadcast_to(probs[:, None], (len(probs), authors, config.vocab))

    def certain(kind: str) -> Array:
        return of_all(spread(jnp.ones((1, 1)), kind))

    def read(tokens: Array, kind: str, count: int) -> Array:
        return jnp.clip(tokens - first[kind], 0, count - 1)

    words = read(text[1:-2], "word", config.words)
    said = jnp.concatenate([world.initial[None], jnp.moveaxis(world.chain[:, words], 0, 1)])
    talk = jnp.concatenate([spread(said, "word"), certain("end")])

    operations = read(text[1 : config.prompt], "operation", config.operations)
    domains = jnp.concatenate([world.domain[None], jax.nn.one_hot(operations[:1] // config.tables, config.domains)])
    posed = jnp.repeat(domains / config.tables, config.tables, axis=1)
    posed = jnp.concatenate([posed[:1], jnp.broadcast_to(posed[1:], (steps - 1, config.operations))])
    sentences = text[config.prompt : -3].reshape(steps, SENTENCE)
    values = read(jnp.concatenate([text[:1], sentences[:, RESULT]]), "value", config.values)
    known = jax.nn.one_hot(values, config.values)
    written = read(sentences[:, 1], "value", config.values), read(sentences[:, 2], "operation", config.operations)
    parts = [
        jnp.broadcast_to(spread(world.opening, "opening")[None], (steps, authors, config.vocab)),
        of_all(spread(known[:-1], "value")),
        of_all(spread(jax.nn.one_hot(operations, config.operations), "operation")),
        jnp.broadcast_to(certain("equals"), (steps, authors, config.vocab)),
        of_all(spread(world.results[written[1], written[0]], "value")),
        jnp.broadcast_to(spread(world.closing, "closing")[None], (steps, authors, config.vocab)),
        jnp.broadcast_to(spread(world.stop, "stop")[None], (steps, authors, config.vocab)),
    ]
    body = jnp.stack(parts, axis=1).reshape(-1, authors, config.vocab)
    ending = [certain("answer"), of_all(spread(known[-1:], "value")), certain("end")]
    worked = jnp.concatenate([of_all(spread(posed, "operation")), body, *ending])

    kinds = jnp.concatenate([jnp.full(config.values, (1 - world.talk) / config.values), jnp.zeros(config.vocab)])
    begun = kinds[: config.vocab].at[first["talk"]].set(world.talk)
    return jnp.concatenate([of_all(begun[None]), jnp.where(text[0] == first["talk"], talk, worked)])
