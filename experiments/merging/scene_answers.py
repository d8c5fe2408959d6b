"""Answers of the toy vision-language model to one question at a time, with some of its visual tokens taken out."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.merging.scene_models import HeldOut, SceneSubject
from lexinv.nn.vision_language import answer_logits, decode, prompt


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


def one_by_one(drawn: HeldOut, kind: int | None = None) -> tuple[Int[Array, " prompts"], Array, Array]:
    """(scene, words, answer) of every question by itself, those of one kind or all, scene by scene."""
    scenes, number = drawn.questions.answer.shape
    chosen = [q for q in range(number) if kind is None or int(drawn.questions.kind[0, q]) == kind]
    scene = jnp.repeat(jnp.arange(scenes), len(chosen))
    pick = jnp.array(chosen, jnp.int32)
    return scene, drawn.questions.words[:, pick].reshape(-1, 2), drawn.questions.answer[:, pick].reshape(-1)
