"""Several tokens of a forward: candidates that the model gave before, kept and drafted as a tree, against the text's own past and chains.

Luo et al. 2024 (arXiv 2408.08696), on small models trained on Python's source and on SmolLM2. All drafts of a row have as many tokens; what
is drawn is the text that one token a forward gives, at temperatures above 0 as well, where the released code has only greedy decoding.
Small models loop when they are greedy, and a loop is easy to draft: temperature 0 is shown beside the others, not judged with them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, by_metric
from experiments.harness.figures import lines
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import open_pretrained
from experiments.subjects.text_pair import TINY, PairConfig, text_pair
from lexinv.data.corpora import load_corpus
from lexinv.decoding.drafts import lookup, recycling, successors
from lexinv.decoding.speculation import Draft, speculate
from lexinv.decoding.trees import PUBLISHED, chain, likeliest
from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS
from lexinv.nn.sampling import Sampling
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import Checked, Count

PAPERS = ("luo2025turning",)
CANDIDATES = 8
LABELS = {"tree": "recycled, tree", "chain": "recycled, chain", "lookup": "the text's past", "bigrams": "bigrams, tree"}


@dataclass(frozen=True)
class RealConfig(Checked):
    """model: an asset, see `experiments.subjects.pretrained_language_model`, or `untrained`. prompts: of each corpus."""

    model: str = "smollm2"
    corpora: tuple[str, ...] = ("python-stdlib", "python-docs")
    prompts: Count = 12
    prompt: Count = 64
    steps: Count = 48
    nodes: Count = 16
    temperatures: tuple[float, ...] = (0.0, 0.7)


@dataclass(frozen=True)
class Config(Checked):
    """steps: tokens after each prompt. nodes: drafted in a forward; the most of them are the published tree's 80."""

    pair: PairConfig = PairConfig()
    steps: Count = 64
    nodes: tuple[int, ...] = (8, 16, 80)
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.0)
    real: RealConfig = RealConfig()

    def checks(self):
        most = len(PUBLISHED) - 1
        yield all(1 <= n <= most for n in self.nodes), "nodes", f"1 to {most}, as the published tree has"
        yield 0.5 in self.temperatures and 0.0 in self.temperatures, "temperatures", "0 and 0.5 among them"
        room = self.pair.prompt + self.steps + max(self.nodes)
        yield (
            room <= self.pair.large.max_length,
            "steps",
            f"room for prompt, steps and nodes in {self.pair.large.max_length} tokens",
        )


PRESETS = presets(
    Config(),
    smoke={
        **TINY,
        "steps": 8,
        "nodes": (6,),
        "temperatures": (0.0, 0.5),
        "real": RealConfig("untrained", ("python-docs",), 1, 6, 6, 4, (0.0,)),
    },
    quick={"pair.training.seeds": (0,), "nodes": (16,), "real.prompts": 2},
    paper={"pair.training.steps": 20_000, "pair.data.context": 512, "pair.prompt": 128, "steps": 256},
)


def tree_of(nodes: int):
    return PUBLISHED if nodes == len(PUBLISHED) - 1 else likeliest(nodes, PUBLISHED)


def drafts(nodes: tuple[int, ...]) -> dict[str, Draft]:
    """By arm; those without a number have as many nodes as there are at most."""
    most = tree_of(max(nodes))
    found = {"tree cold": recycling(most, kept=False), "tree accepted": recycling(most, rejected=False)}
    for n in nodes:
        found[f"tree {n}"] = recycling(tree_of(n))
        found[f"chain {n}"] = recycling(chain(n))
        found[f"lookup {n}"] = lookup(n)
        found[f"bigrams {n}"] = recycling(tree_of(n), learns=False)
    return found


def teller(
    model: TransformerConfig, vocab: int, params: Any, prompts: Array, steps: int, seed: int
) -> Callable[..., Any]:
    """`tell(draft, state, temperature)`: by prompt, one after the other, tokens a forward, and the share that plain decoding has not."""
    extend, params = make_extend(model, vocab), unstacked(params)
    keys = jax.random.split(jax.random.key(seed), len(prompts))
    plain: dict[float, np.ndarray] = {}

    def given(row: int, room: int) -> Any:
        cache = empty_cache(model, 1, prompts.shape[1] + steps + room)
        return (
            extend,
            params,
            params["table"],
            cache,
            prompts[row : row + 1],
            jnp.array([prompts.shape[1]]),
            keys[row : row + 1],
            steps,
        )

    def tell(draft: Draft, state: Any, temperature: float) -> dict[str, list[float]]:
        sampling = Sampling(temperature)
        if temperature not in plain:
            texts = [generate(*given(row, 0), sampling=sampling).tokens[0] for row in range(len(prompts))]
            plain[temperature] = np.stack([np.asarray(text) for text in texts])
        found: dict[str, list[float]] = {"accepted": [], "other": [], "distinct": []}
        for row, want in enumerate(plain[temperature]):
            told = speculate(*given(row, len(draft.tree)), sampling=sampling, draft=draft, state=state)
            state = told.state
            found["accepted"].append(steps / int(told.forwards[0]))
            found["other"].append(float(np.mean(np.asarray(told.tokens[0]) != want)))
            found["distinct"].append(len(np.unique(want)) / steps)
        return found

    return tell


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """arms[arm][metric][seed][temperature][prompt], in the order of the prompts; of the published model without seeds."""
    seeds, pair = config.pair.training.seeds, text_pair(config.pair, workspace)
    every, starts = drafts(config.nodes), states(pair.text.train.tokens, pair.text.vocab)

    def of_seed(seed: str) -> dict[str, Any]:
        place = seeds.index(int(seed))
        tell = teller(
            config.pair.large, pair.text.vocab, pair.large[place], pair.prompts[place], config.steps, int(seed)
        )
        return {
            arm: by_metric([tell(draft, starts(arm), temperature) for temperature in config.temperatures])
            for arm, draft in every.items()
        }

    rows = list(workspace.stages("drafts", map(str, seeds), of_seed).values())
    return {
        "seeds": seeds,
        "temperatures": config.temperatures,
        "nodes": config.nodes,
        "arms": {arm: by_metric([row[arm] for row in rows]) for arm in every},
        "real": workspace.cached("real", lambda: real(config.real, workspace)),
    }


def states(text: np.ndarray, vocab: int) -> Callable[[str], Any]:
    """What the drafts of an arm begin with."""
    bigrams, nothing = successors(text, vocab, CANDIDATES), jnp.zeros((vocab, CANDIDATES), jnp.int32)
    return lambda arm: {"lookup": (), "bigrams": bigrams}.get(arm.split()[0], nothing)


def real(config: RealConfig, workspace: Workspace) -> dict[str, Any]:
    """The same of the published model, on documents that it may have read: [temperature][prompt]."""
    corpora = [load_corpus(name) for name in config.corpora]
    world = open_pretrained(config.model, workspace)
    starts = []
    for corpus in corpora:
        windows = world.windows(corpus.splits["test"], config.prompt - 1)
        starts.append(windows[windows[:, -1] >= 0][: config.prompts])
    prompts = jnp.asarray(np.insert(np.concatenate(starts), 0, BOS, axis=1))
    model, n = world.model, config.nodes
    tell = teller(model.config, model.vocab, model.params, prompts, config.steps, 0)
    arms = {"tree": recycling(tree_of(n)), "chain": recycling(chain(n)), "lookup": lookup(n)}
    state = states(np.zeros(2, np.int32), model.vocab)
    found = {arm: by_metric([tell(draft, state(arm), t) for t in config.temperatures]) for arm, draft in arms.items()}
    return {"model": config.model, "temperatures": config.temperatures, "nodes": n, "arms": found}


def accepted(results: dict[str, Any], arm: str, temperature: float) -> Float[np.ndarray, " seeds"]:
    """Mean tokens of a forward."""
    return Arms(results)[arm, "accepted"][:, list(results["temperatures"]).index(temperature)].mean(axis=-1)


def claims(results: dict[str, Any]) -> list[Claim]:
    paper, arms, nodes, temperatures = "luo2025turning", Arms(results), results["nodes"], results["temperatures"]
    most, warm, unit = max(nodes), 0.5, "tokens a forward"
    gain = {
        other: {
            f"{n} nodes": accepted(results, f"tree {n}", warm) - accepted(results, f"{other} {n}", warm) for n in nodes
        }
        for other in ("lookup", "chain", "bigrams")
    }
    tree = accepted(results, f"tree {most}", warm)
    other = np.stack([arms[arm, "other"] for arm in arms]).mean(axis=(0, 3))
    flattered = accepted(results, f"lookup {most}", 0.0) / accepted(results, f"lookup {most}", warm)
    distinct = arms[f"lookup {most}", "distinct"][:, list(temperatures).index(0.0)].mean(axis=-1)
    real, published = Arms(results["real"]), results["real"]["temperatures"]
    wrong = np.stack([real[arm, "other"] for arm in real]).mean(axis=0)
    return [
        Claim(
            "lossless",
            "What is drawn is, token for token, what one token a forward gives.",
            f"{paper}: abstract",
            {f"temperature {t:g}": other[:, i] for i, t in enumerate(temperatures)},
            below(1e-9).every_seed,
            "share of other tokens",
        ),
        Claim(
            "beats_lookup",
            "Recycled candidates are accepted more than the text's own past.",
            f"{paper}: table 1",
            gain["lookup"],
            above(0.1),
            unit,
        ),
        Claim(
            "beats_chain",
            "A tree of them is accepted more than as long a chain.",
            f"{paper}: section 4",
            gain["chain"],
            above(0.1),
            unit,
        ),
        Claim(
            "beats_bigrams",
            "They are accepted more than bigrams of the training text in the same tree.",
            OURS,
            gain["bigrams"],
            above(0.1, matters=0.0),
            unit,
        ),
        Claim(
            "kept_matrix_helps",
            "Candidates that outlive a text are accepted more than those begun anew with each.",
            f"{paper}: section 3.3",
            {f"{most} nodes": tree - accepted(results, "tree cold", warm)},
            above(0),
            unit,
        ),
        Claim(
            "rejected_nodes_help",
            "So are those of all drafted tokens, more than of the accepted ones alone.",
            f"{paper}: section 3.2",
            {f"{most} nodes": tree - accepted(results, "tree accepted", warm)},
            above(0),
            unit,
        ),
        Claim(
            "loops_flatter",
            "A small model that is greedy repeats itself, which flatters drafts from the text's past.",
            OURS,
            {"tokens a forward, temperature 0 over 0.5": flattered, "share of distinct tokens": distinct},
            {"tokens a forward, temperature 0 over 0.5": above(1.5), "share of distinct tokens": below(0.2)},
        ),
        Claim(
            "real_lossless",
            "So it is on a published model.",
            f"{paper}: abstract",
            {f"temperature {t:g}": wrong[i] for i, t in enumerate(published)},
            below(1e-9).every_seed,
            "share of other tokens",
            over="prompts",
        ),
        Claim(
            "real_accepted",
            "A greedy forward of the published model gives more than 1.8 tokens.",
            OURS,
            {f"{results['real']['nodes']} nodes": real["tree", "accepted"][published.index(0.0)]},
            above(1.8),
            unit,
            over="prompts",
        ),
    ]


def figure(results: dict[str, Any]) -> Figure:
    """Tokens of a forward by how many are drafted, for each temperature of which one is judged and one flatters; and along the prompts."""
    nodes, arms, shown = results["nodes"], Arms(results), (0.5, 0.0)
    titles = [f"Temperature {t:g}" for t in shown] + ["Prompt by prompt, temperature 0.5"]
    drawn, axes = panels(1, 3, height=3.0, titles=titles)
    for panel, temperature in zip(axes, shown, strict=False):
        within = {
            label: np.stack([accepted(results, f"{arm} {n}", temperature) for n in nodes], axis=1)
            for arm, label in LABELS.items()
        }
        lines(panel, np.log2(nodes).tolist(), within)
        panel.set_xticks(np.log2(nodes), [str(n) for n in nodes])
        panel.set(xlabel="drafted tokens", ylabel="tokens a forward")
    axes[0].legend(fontsize=7)
    place, most = list(results["temperatures"]).index(0.5), max(nodes)
    kept = {"kept": f"tree {most}", "begun anew": "tree cold", "accepted ones alone": "tree accepted"}
    rows = {label: arms[arm, "accepted"][:, place] for label, arm in kept.items()}
    lines(
        axes[2],
        list(range(1, rows["kept"].shape[1] + 1)),
        {label: np.cumsum(r, 1) / np.arange(1, r.shape[1] + 1) for label, r in rows.items()},
    )
    axes[2].set(xlabel="prompts", ylabel="tokens a forward, mean so far")
    axes[2].legend(fontsize=7)
    return drawn
