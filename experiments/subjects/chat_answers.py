"""A chat model's answers to open questions: in its template, as plain text, and as plain text that begins as an assistant would."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.arms import by_metric
from experiments.harness.workspace import Workspace
from experiments.subjects.parsed_texts import THINGS, chat
from experiments.subjects.pretrained_language_model import open_pretrained
from lexinv.decoding.branching import branching_factor, branching_per_unit, local_branching
from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS
from lexinv.nn.sampling import Sampling

PUBLISHED = Sampling(1.0, top_p=0.9)
"""How the paper draws."""
BEGINNINGS = {"plain": "", "sure": "Sure", "other": "Table"}
"""Of answers in plain text: a word that assistants begin with, and one that they do not."""


def ask(name: str, questions: int, texts: int, steps: int, window: int, workspace: Workspace) -> dict[str, Any]:
    """By way of asking and question: the factor, that of a byte, and those of windows of tokens as long as texts go on."""
    world = open_pretrained(name, workspace)
    model, vocab, params = world.model.config, world.model.vocab, unstacked(world.model.params)
    opened, extend = chat(world), make_extend(model, vocab)
    asked = [f"Tell me about {thing}." for thing in THINGS[:questions]]
    ends = {question: opened(question)[1] for question in asked}
    prompts = {
        way: [[BOS, *world.tokenizer.encode(f"{question}\n{beginning}")] for question in asked]
        for way, beginning in BEGINNINGS.items()
    }
    prompts["template"] = [opened(question)[0] for question in asked]
    longest = max(len(prompt) for rows in prompts.values() for prompt in rows)
    lengths = np.asarray(world.tokenizer.token_bytes)

    def answered(place: str) -> dict[str, Any]:
        way, row = place.split("-")
        prompt = prompts[way][int(row)]
        before = np.full((1, longest), BOS, np.int32)
        before[0, : len(prompt) - 1] = prompt[:-1]
        cache = empty_cache(model, 1, longest + steps)
        _, one = extend(params, params["table"], cache, jnp.asarray(before), jnp.full(1, len(prompt) - 1))
        start = jax.tree.map(lambda leaf: jnp.repeat(leaf, texts, axis=0), one)
        last, count = jnp.full((texts, 1), prompt[-1], jnp.int32), jnp.ones(texts, jnp.int32)
        keys = jax.random.split(jax.random.key(int(row)), texts)
        stop = (world.tokenizer.separator, ends[asked[int(row)]])
        found = generate(extend, params, params["table"], start, last, count, keys, steps, PUBLISHED, stop)
        units = jnp.asarray(lengths[np.asarray(found.tokens)])
        local = np.asarray(local_branching(found.entropies, found.alive, window))
        return {
            "factor": float(branching_factor(found.entropies, found.log_probs, found.alive, "entropy")),
            "byte": float(branching_per_unit(found.entropies, found.alive, units)),
            "local": local[np.isfinite(local)].tolist(),
        }

    rows = workspace.stages("asked", [f"{way}-{row}" for way in prompts for row in range(questions)], answered)
    return {way: by_metric([rows[f"{way}-{row}"] for row in range(questions)]) for way in prompts}
