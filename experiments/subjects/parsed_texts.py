"""Models that write under a parser, a black box that is asked about few tokens: one of Python's source, and SmolLM2 also under JSON."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from experiments.harness.workspace import Workspace
from experiments.subjects.language_models import shared_seeds
from experiments.subjects.pretrained_language_model import PretrainedWorld, open_pretrained
from experiments.subjects.text import STANDARD, prepare
from experiments.subjects.text_pair import PairConfig
from lexinv.data.tokenizers import Tokenizer
from lexinv.decoding.checkers import begins_json, begins_python, is_json, is_python
from lexinv.decoding.particles import Particles, smc_lazily
from lexinv.nn.cache import Cache, empty_cache, make_extend, unstacked
from lexinv.nn.language_model import BOS, Params
from lexinv.nn.transformer import TransformerConfig

Asked = tuple[str, Callable[[str], bool], Callable[[str], bool]]
"""(what is asked, whether a text may begin like this, whether it is whole)."""
BEGINNINGS = (
    "import os\n\n",
    "def main(",
    "class Config:\n",
    "# Copyright\n",
    "from typing import ",
    "x = [",
    "if True:\n",
    "try:\n",
)
"""Of Python's source, which the model goes on with."""
THINGS = (
    "a book",
    "a city",
    "a person",
    "a car",
    "a recipe",
    "a song",
    "a film",
    "a dog",
    "a house",
    "a phone",
    "a tree",
    "a game",
)
TASKS = (
    "adds two numbers",
    "reverses a string",
    "returns the largest of a list",
    "counts vowels",
    "computes a factorial",
    "checks if a number is even",
    "removes duplicates from a list",
    "sums a list",
    "converts Celsius to Fahrenheit",
    "finds the length of a string",
    "squares a number",
    "greets a person by name",
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def questions(count: int) -> list[Asked]:
    """Half for JSON, half for Python."""
    json = [
        (
            f'Name {thing}: a JSON object with the key "name" and nothing else. Answer with JSON only.',
            begins_json,
            is_json,
        )
        for thing in THINGS
    ]
    code = [
        (f"Write a Python function that {task}. Answer with code only, without comments.", begins_python, is_python)
        for task in TASKS
    ]
    return [one for pair in zip(json, code, strict=True) for one in pair][:count]


def chat(world: PretrainedWorld) -> Callable[[str], tuple[list[int], int]]:
    """`opened(question) -> (prompt, the token that ends an answer)` in the model's chat template; of a model without one, plain text."""
    tokenizer, encode = world.model.tokenizer, world.tokenizer.encode
    if tokenizer is None:
        return lambda text: ([BOS, *encode(text)], world.tokenizer.separator)
    begin, end = (tokenizer.token_to_id(f"<|im_{name}|>") for name in ("start", "end"))

    def opened(text: str) -> tuple[list[int], int]:
        turns = [
            [begin, *encode(f"{who}\n{said}"), end, *encode("\n")] for who, said in (("system", SYSTEM), ("user", text))
        ]
        return [*turns[0], *turns[1], begin, *encode("assistant\n")], end

    return opened


def predictor(
    model: TransformerConfig, vocab: int, params: Params, prompt: Sequence[int], count: int, width: int, slots: int
) -> tuple[Callable[[Any, np.ndarray], tuple[Float[np.ndarray, "particles vocab"], Any]], Cache]:
    """`smc_lazily`'s predict and its start: the model after a prompt, of which all but the last token are read once, `width` at a time."""
    extend, table = make_extend(model, vocab), params["table"]
    before = np.full((1, width), BOS, np.int32)
    before[0, : len(prompt) - 1] = prompt[:-1]
    _, one = extend(params, table, empty_cache(model, 1, slots), jnp.asarray(before), jnp.full(1, len(prompt) - 1))
    start = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), one)

    def predict(cache: Cache, last: Int[np.ndarray, " particles"]) -> tuple[np.ndarray, Cache]:
        tokens = np.where(last < 0, prompt[-1], last)[:, None]
        logits, cache = extend(params, table, cache, jnp.asarray(tokens, jnp.int32), jnp.ones(count, jnp.int32))
        return np.asarray(jax.nn.log_softmax(logits[:, 0])), cache

    return predict, start


def write(
    rng: np.random.Generator,
    model: tuple[TransformerConfig, int, Params],
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    prefix: str,
    asked: tuple[Callable[[str], bool], Callable[[str], bool]],
    count: int,
    steps: int,
    end: int,
    width: int,
) -> tuple[Particles, list[bool]]:
    """(particles that go on with `prompt` so that prefix and text are what is asked, whether each that ended with a weight is)."""
    begins, whole = asked

    def check(before: tuple[int, ...], token: int) -> bool:
        text = tokenizer.decode(before)
        if token == end:
            return whole(prefix + text)
        longer = tokenizer.decode((*before, token))
        return longer != text and begins(prefix + longer)  # special tokens write nothing

    config, vocab, params = model
    predict, start = predictor(config, vocab, params, prompt, count, width, width + steps)
    found = smc_lazily(rng, predict, start, check, count, steps, end)
    texts = [
        text[text >= 0]
        for text, weight in zip(np.asarray(found.tokens), found.log_weights, strict=True)
        if weight > -np.inf
    ]
    ended = [prefix + tokenizer.decode(text[:-1]) for text in texts if len(text) and text[-1] == end]
    return found, [whole(text) for text in ended]


def write_python(config: PairConfig, count: int, steps: int, workspace: Workspace) -> tuple[dict[str, Any], str]:
    """(tests and draws of every seed's small model under Python's parser, the fingerprint of its corpus)."""
    text = prepare(config.data.corpora[0], config.data, len(config.training.seeds), config.prompts, workspace)
    decided = {"corpus": text.fingerprint, "tokenizer": text.tokenizer.fingerprint, "context": config.data.context}
    shared = shared_seeds(decided, config.small, STANDARD, text.vocab, text.train, config.training, workspace)

    def of_seed(name: str) -> dict[str, Any]:
        seed = int(name)
        model = config.small, text.vocab, unstacked(shared.params[config.training.seeds.index(seed)])
        rng, rows = np.random.default_rng(seed), []
        for prefix in BEGINNINGS:
            prompt = [BOS, *text.tokenizer.encode(prefix)]
            asked = (begins_python, is_python)
            end, width = text.tokenizer.separator, 24
            found, _ = write(rng, model, text.tokenizer, prompt, prefix, asked, count, steps, end, width)
            rows.append((int(found.evaluations), int(found.draws)))
        return dict(zip(("tested", "draws"), np.sum(rows, axis=0).tolist(), strict=True))

    return workspace.stages("python", map(str, config.training.seeds), of_seed), text.fingerprint


def ask_model(name: str, asked: int, count: int, steps: int, workspace: Workspace) -> dict[str, Any]:
    """What a chat model answers under the parsers: tests per token of every prompt, and of texts that ended how many are what was asked."""
    world = open_pretrained(name, workspace)
    opened, params = chat(world), unstacked(world.model.params)

    def of_prompt(index: str) -> dict[str, Any]:
        text, begins, whole = questions(asked)[int(index)]
        prompt, end = opened(text)
        model, rng = (world.model.config, world.model.vocab, params), np.random.default_rng(int(index))
        found, valid = write(rng, model, world.tokenizer, prompt, "", (begins, whole), count, steps, end, 96)
        return {
            "tested": int(found.evaluations),
            "draws": int(found.draws),
            "ended": len(valid),
            "valid": sum(valid),
        }

    rows = workspace.stages("asked", map(str, range(asked)), of_prompt)
    return {"vocab": world.model.vocab, **{key: [row[key] for row in rows.values()] for key in rows["0"]}}
