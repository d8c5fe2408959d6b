"""A pretrained language model asked about haystacks of UUIDs: which values greedy decoding finds, and at what cost in nats.

Roberts, Han and Albanie 2024 (arXiv 2411.05000) ask in a chat and parse the replies. A small model begins these with words of its own, so
the answer is begun for it as a JSON object, `{"key": "`, and read in one pass over prompt and true answer: a value is found where each
of its tokens is the most likely one after those before it. For one value that is what greedy decoding gives; of several values the
earlier ones are given as they should be. Where no keys are named they have to be found as well, in the order of the haystack.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from experiments.harness.intervals import Interval, share_difference, share_interval
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import PretrainedWorld
from lexinv.lexinvariance import haystack_scores, haystacks
from lexinv.lexinvariance.haystack_solvers import Solver, any_value, most_recent, one_link
from lexinv.lexinvariance.haystacks import MARKS, Item
from lexinv.nn.language_model import LanguageModel, Params, shift_right
from lexinv.nn.lexicon import embed, readout, token_nll
from lexinv.validation import Checked, Count, Counts, require

STEP = 64
"""Programs are compiled for multiples of so many tokens."""
BEGUN = '{"'


@dataclass(frozen=True)
class ReaderConfig(Checked):
    """What is asked of which model: `items[i]` questions of each task in haystacks of `pairs[i]` pairs, other ones for each length.

    depths: of a single needle, in per cent. needles: at once. links: of single threads; several threads and branched ones have the fewest
    and the most of these. baselines: items of each task on which solvers that do not read, or follow no link, are judged.
    """

    model: str = "smollm2"
    pairs: Counts = (4, 10, 24, 50)
    items: tuple[int, ...] = (4, 3, 2, 1)
    depths: tuple[float, ...] = (0.0, 25.0, 50.0, 75.0, 100.0)
    needles: Count = 3
    links: Counts = (2, 3)
    baselines: Count = 200

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        yield list(self.pairs) == sorted(set(self.pairs)), "pairs", "ascending"
        counts = len(self.items) == len(self.pairs) and min(self.items) >= 1
        yield counts, "items", f"one positive number for each of the {len(self.pairs)} of pairs"
        yield {0.0, 50.0, 100.0} <= set(self.depths), "depths", "0, 50 and 100 among them"
        yield max(self.depths) <= 100 and min(self.depths) >= 0, "depths", "0 to 100 per cent"
        yield list(self.links) == sorted(set(self.links)), "links", "ascending"
        length = self.links[-1]
        most = max(self.needles, 2 * self.links[0], length + (length - 1) * (length - 2) // 2)
        yield most <= self.pairs[0], "pairs", f"at least {most}, which the needles and links of a question take"


SOLVERS: dict[str, Solver] = {"any value": any_value(0), "the last value": most_recent, "the value beside": one_link}
WITHOUT_READING = ("any value", "the last value")


class Question(NamedTuple):
    """The text of prompt and answer, and where in it the parts of the answer stand that the model has to find."""

    text: str
    spans: tuple[tuple[int, int], ...]


class Reading(NamedTuple):
    """Of one part of an answer: whether each of its tokens is the likeliest, and what all of them cost."""

    found: bool
    nats: float


def tasks(config: ReaderConfig) -> dict[str, Callable[[np.random.Generator, int], Item]]:
    """By name how an item of so many pairs is drawn."""

    def branched(rng: np.random.Generator, pairs: int) -> Item:
        links = haystacks.branched_links(rng, config.links[-1], 2)
        return haystacks.branched_thread(rng, pairs, links, 0, "forward")

    named: dict[str, Callable[[np.random.Generator, int], Item]] = {
        f"one needle at {depth:g} %": partial(haystacks.single_needle, depth=depth) for depth in config.depths
    }
    named["needles"] = partial(haystacks.multiple_needles, needles=config.needles, placement="random")
    for place in haystacks.PLACEMENTS:
        drawn = partial(haystacks.conditional_needles, needles=config.needles, placement=place, character=MARKS[0])
        named[f"marked, {place}"] = drawn
    for links in config.links:
        for way in ("forward", "backward"):
            named[f"{links} links {way}"] = partial(haystacks.threads, length=links, count=1, direction=way)
    named["2 threads"] = partial(haystacks.threads, length=config.links[0], count=2, direction="forward")
    return named | {"branched": branched}


def question(item: Item, values: Sequence[str] | None = None) -> Question:
    """The item with an answer of these values, by default the right ones."""
    pairs = json.loads(item.haystack, object_pairs_hook=list)
    text, spans = f"{item.prompt}\n{BEGUN}", []
    for key, value in zip(item.keys or [pairs[at][0] for at in item.positions], values or item.values, strict=True):
        begin = len(text)
        text += f'{key}": "{value}'
        spans.append((begin if not item.keys else len(text) - len(value), len(text)))
        text += '", "'
    return Question(text, tuple(spans))


def beside(item: Item) -> list[str]:
    """The values that stand beside the keys of the question: the first links of threads."""
    found = dict(reversed(json.loads(item.haystack, object_pairs_hook=list)))
    return [found[key] for key in item.keys]


def read(
    world: PretrainedWorld, asked: Sequence[Question], alike: Sequence[Question]
) -> tuple[list[list[Reading]], int]:
    """A reading of each part of each answer, and the tokens to which the questions were padded.

    alike: all that are read by one program, themselves among them. Raises `InvalidConfig` before anything is computed where one of them is
        beyond the model's context: nothing is cut off silently.
    """

    def encoded(one: Question) -> tuple[list[int], list[np.ndarray]]:
        found = world.model.tokenizer.encode(one.text, add_special_tokens=False)
        spans = [[at for at, (a, b) in enumerate(found.offsets) if a < stop and start < b] for start, stop in one.spans]
        return found.ids, list(map(np.array, spans))

    sizes = [(len(ids), sum(map(len, spans))) for ids, spans in map(encoded, alike)]
    longest, most = max(length for length, _ in sizes), world.model.config.max_length
    require(longest <= most, "pairs", f"a question of {longest} tokens", f"at most the model's {most}")
    time, room = (min(-(-max(size) // STEP) * STEP, most) for size in zip(*sizes, strict=True))
    scores, readings = make_scores(world), []
    for ids, spans in map(encoded, asked):
        tokens, padded, places = np.zeros(time, np.int32), np.zeros(room, np.int32), np.concatenate(spans)
        tokens[: len(ids)], padded[: len(places)] = ids, places
        likeliest, nats = jax.device_get(scores(world.model.params, tokens[None], padded))
        right = (likeliest == tokens[padded])[: len(places)]
        edges = np.cumsum([len(span) for span in spans])[:-1]
        each = zip(np.split(right, edges), np.split(nats[: len(places)], edges), strict=True)
        readings.append([Reading(bool(hits.all()), float(costs.sum())) for hits, costs in each])
    return readings, time


@cache
def make_scores(world: PretrainedWorld) -> Callable[..., tuple[Array, Array]]:
    """`scores(params, tokens[1, T], places[P])`: the likeliest token at each place given those before it, and the nats of that there."""
    language = LanguageModel(world.model.config)

    @jax.jit
    def scores(params: Params, tokens: Int[Array, "one time"], places: Int[Array, " places"]) -> tuple[Array, Array]:
        inputs = shift_right(tokens)
        variables, vectors = {"params": params["model"]}, embed(params["table"], inputs)
        features: Any = language.apply(variables, inputs, vectors, method="features")
        # At the places alone: logits of all tokens would be the largest array by far.
        logits = readout(features[0][:, places], params.get("output_table", params["table"]))
        return logits[0].argmax(-1), token_nll(logits, tokens[:, places])[0]

    return scores


def measure(config: ReaderConfig, world: PretrainedWorld, number: int, workspace: Workspace) -> dict[str, Any]:
    """Everything on the haystacks of one size: by task, item and value what is found and its nats; of single threads what is copied.

    copied: whether it is the value beside the key that greedy decoding gives in place of the last one. baselines: mean shares of right
    values of the solvers, on more items. Each task is a stage of the run.
    """
    pairs, count, known = config.pairs[number], config.items[number], tasks(config)
    right, copies = {}, {}
    for task, make in known.items():
        items = haystacks.repeats(partial(make, pairs=pairs), pairs, count)
        right[task] = [question(item) for item in items]
        copies[task] = [question(item, beside(item)) for item in items] if "links" in task else []
    alike = [one for asked in (right, copies) for ones in asked.values() for one in ones]

    def answers(task: str) -> dict[str, Any]:
        readings, tokens = read(world, [*right[task], *copies[task]], alike)
        found = readings[:count]
        return {
            "tokens": tokens,
            "found": [[one.found for one in item] for item in found],
            "nats": [[one.nats for one in item] for item in found],
            "copied": [item[0].found for item in readings[count:]],
        }

    def baselines() -> dict[str, dict[str, float]]:
        many = {
            task: haystacks.repeats(partial(make, pairs=pairs), pairs, config.baselines) for task, make in known.items()
        }
        return {
            name: {task: float(haystack_scores.evaluate(solver, items).mean()) for task, items in many.items()}
            for name, solver in SOLVERS.items()
        }

    told = {
        task: workspace.cached(f"reader/{pairs}/{place}", partial(answers, task)) for place, task in enumerate(known)
    }
    by_field = {field: {task: one[field] for task, one in told.items()} for field in ("found", "nats", "copied")}
    return by_field | {
        "characters": pairs * haystacks.PAIR_CHARACTERS,
        "tokens": next(iter(told.values()))["tokens"],
        "baselines": workspace.cached(f"reader/{pairs}/baselines", baselines),
    }


class Reader:
    """What `measure` gave for haystacks of several sizes, of the tasks whose names begin so. window: of the model, in characters."""

    def __init__(self, sizes: Sequence[dict[str, Any]], window: float):
        self.sizes, self.window = sizes, window
        self.characters = [size["characters"] for size in sizes]

    def share(self, task: str, size: int | None = None, what: str = "found") -> Interval:
        """Of the values asked for, those found; or of threads, those whose first link is said in place of the last."""
        chosen = self.sizes if size is None else [self.sizes[size]]
        cells = [cells for one in chosen for name, cells in one[what].items() if name.startswith(task)]
        hits = np.concatenate([np.ravel(each) for each in cells])
        return share_interval(int(hits.sum()), len(hits))

    def more(self, task: str, other: str) -> Interval:
        return share_difference(self.share(task), self.share(other))

    def baseline(self, task: str, size: int | None = None) -> float:
        """The share of the better solver that does not read; over all sizes in the proportion in which the model was asked."""
        if size is None:
            weights = [len(one["found"]["needles"]) for one in self.sizes]
            return float(np.average([self.baseline(task, number) for number in range(len(weights))], weights=weights))
        found = [self.sizes[size]["baselines"][name] for name in WITHOUT_READING]
        return max(float(np.mean([share for name, share in one.items() if name.startswith(task)])) for one in found)

    def effective(self, task: str, level: float) -> Interval:
        """Effective context over the window; its ends are those where all accuracies are at theirs."""
        shares = [self.share(task, size) for size in range(len(self.sizes))]
        lengths, ends = np.array(self.characters, np.float64), np.array([(s.mean, s.low, s.high) for s in shares]).T
        return Interval(*(haystack_scores.contour(lengths, ends, level) / self.window).tolist(), shares[0].n)
