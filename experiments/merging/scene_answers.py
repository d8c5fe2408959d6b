"""Answers of the toy vision-language model to one question at a time, with some of its visual tokens taken out."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.merging.scene_models import HeldOut, SceneSubject, held_out
from lexinv.nn.vision_language import answer_logits, decode, encode, prompt

draw_held_out = jax.jit(held_out, static_argnums=(0, 2))
"""`held_out(subject, seed, count)` as one program for all seeds."""


@partial(jax.jit, static_argnums=0)
def visual_tokens(
    subject: SceneSubject, params: Any, pixels: Float[Array, "scenes side side 3"]
) -> Float[Array, "scenes patches width"]:
    """What the decoder reads of every patch."""
    return encode(subject.model, params, pixels).visual


@partial(jax.jit, static_argnums=0)
def logits_with(
    subject: SceneSubject,
    params: Any,
    visual: Float[Array, "prompts kept width"],
    words: Int[Array, "prompts words"],
    places: Int[Array, "prompts kept"] | None = None,
    remove_at: Int[Array, ""] | None = None,
) -> Float[Array, "prompts answers"]:
    """Logits at the last word. places: of the tokens that are left, rising; remove_at: the layer from which on nobody sees them."""
    seen = prompt(subject.model, params, visual, words, places)
    gone = None if remove_at is None else jnp.broadcast_to(remove_at, words.shape[:1])
    after = decode(subject.model, params, seen, remove_at=gone)
    return answer_logits(params, after.stream[:, -1:])[:, 0]


def one_by_one(
    drawn: HeldOut, kind: int | None = None
) -> tuple[Int[np.ndarray, " prompts"], Int[np.ndarray, "prompts words"], Int[np.ndarray, " prompts"]]:
    """(scene, words, answer) of every question by itself, those of one kind or all, scene by scene."""
    words, answer, kinds = (np.asarray(part) for part in drawn.questions[:3])
    chosen = np.ones(kinds.shape, bool) if kind is None else kinds == kind
    return np.nonzero(chosen)[0].astype(np.int32), words[chosen], answer[chosen]
