"""Retrieval by vectors of tokens without gathering: those that are retrieved score a document alone, if training has searched alike.

Lee et al. 2023 (XTR, arXiv 2304.01982); method card xtr. Documents are generated, so that which one a question is about is known; the
questions are about documents that training never asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import curves
from experiments.harness.presets import presets
from experiments.harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, panels, reference
from experiments.harness.training import Training, initial, train
from experiments.harness.verdicts import OURS, Claim, above, below, between
from experiments.harness.work import Params
from experiments.harness.workspace import Workspace
from experiments.subjects.token_search import BEST, bm25_scores, reciprocal_ranks, searched
from experiments.subjects.topic_documents import (
    LENGTH,
    QUERY_LENGTH,
    TopicDocuments,
    draw_collection,
    draw_queries,
    encode,
    encode_all,
    initialize,
    question_batches,
)
from lexinv.nn.transformer import TransformerConfig
from lexinv.sequence.late_interaction import (
    colbert_score,
    contrastive_loss,
    scoring_operations,
    token_similarities,
    xtr_score,
)
from lexinv.training.optimizers import OptimizerConfig
from lexinv.training.population import member
from lexinv.validation import Checked, Count, Counts, Positive

PAPERS = ("lee2023rethinking",)
RANKS = 100
"""Of retrieved tokens, that are looked at one by one."""
FIRST = 20


@dataclass(frozen=True)
class Config(Checked):
    """trained_with: tokens that a query token finds in a batch, k_train, a model for each; the middle one is judged. retrieved: tokens
    that one finds in the collection. out: width of a vector. questions: to be judged, a document each."""

    collection: TopicDocuments = TopicDocuments()
    model: TransformerConfig = TransformerConfig(
        depth=2, width=64, heads=4, mlp_width=256, causal=False, max_length=LENGTH, unroll=2
    )
    out: Count = 32
    temperature: Positive = 0.05
    training: Training = Training(
        500, 64, (0, 1, 2), OptimizerConfig(learning_rate=3e-3, warmup_steps=50), steps_per_dispatch=10
    )
    trained_with: Counts = (16, 32, 96)
    retrieved: Counts = (5, 20, 100, 400)
    questions: Count = 200

    def checks(self) -> Iterator[tuple[bool, str, str]]:
        batch, left = self.training.batch_size, self.collection.documents - self.collection.asked
        yield (
            max(self.trained_with) <= batch * LENGTH,
            "trained_with",
            f"at most the {batch * LENGTH} tokens of a batch",
        )
        yield (
            batch <= self.collection.asked,
            "training.batch_size",
            f"at most collection.asked = {self.collection.asked}",
        )
        tokens = self.collection.documents * LENGTH
        yield RANKS <= max(self.retrieved) <= tokens, "retrieved", f"the largest from {RANKS} to {tokens}, all tokens"
        yield list(self.retrieved) == sorted(self.retrieved), "retrieved", "ascending"
        yield self.questions <= left, "questions", f"at most the {left} documents that training does not ask for"
        yield not self.model.causal and self.model.max_length >= LENGTH, "model", f"not causal, and as long as {LENGTH}"


PRESETS = presets(
    Config(),
    smoke={
        "collection.documents": 60,
        "collection.asked": 40,
        "model.depth": 1,
        "model.width": 16,
        "model.heads": 2,
        "model.mlp_width": 32,
        "training.steps": 20,
        "training.batch_size": 8,
        "training.seeds": (0, 1),
        "training.optimizer.warmup_steps": 2,
        "trained_with": (8,),
        "retrieved": (5, 100),
        "questions": 20,
    },
    quick={"training.seeds": (0, 1), "trained_with": (32,), "questions": 100},
    paper={
        "collection.documents": 1_000_000,
        "collection.asked": 900_000,
        "collection.things": 30_000,
        "model.depth": 12,
        "model.width": 768,
        "model.heads": 12,
        "model.mlp_width": 3072,
        "out": 128,
        "training.steps": 50_000,
        "training.batch_size": 256,
        "trained_with": (64, 128, 320),
        "retrieved": (100, 1000, 10_000, 40_000),
        "questions": 2000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm: mean reciprocal ranks when all tokens score and when the retrieved ones do, by number and imputation; what was retrieved."""
    training, kinds = config.training, ("single", "colbert", *(f"xtr-{k}" for k in config.trained_with))
    start = partial(initialize, config.model, config.collection.vocab, config.out)
    batches = question_batches(config.collection, training.batch_size, training.steps_per_dispatch)
    models = {kind: train(kind, start, make_loss(config, kind), batches, training, workspace) for kind in kinds}
    untrained = initial(start, training.seeds)
    models["untrained"] = [member(untrained, place) for place in range(len(training.seeds))]

    def measure(arm: str, seed: int) -> dict[str, Any]:
        collection = draw_collection(config.collection, seed)
        gold = np.arange(config.collection.asked, config.collection.asked + config.questions, dtype=np.int32)
        queries = draw_queries(np.random.default_rng((seed, 0)), config.collection, collection, gold)
        if arm == "words":
            found = reciprocal_ranks(jnp.asarray(bm25_scores(collection.tokens, queries)), jnp.asarray(gold))
            return {"whole": float(jnp.mean(found))}
        params = models[arm][training.seeds.index(seed)]
        asked, vectors = (encode_all(config.model, params, jnp.asarray(each)) for each in (queries, collection.tokens))
        if arm == "single":
            return {"whole": float(jnp.mean(reciprocal_ranks(pooled(asked) @ pooled(vectors).T, jnp.asarray(gold))))}
        found, places = searched(asked, vectors, jnp.asarray(gold), config.retrieved)
        near = np.asarray(places)[..., :RANKS]
        right, same = near // LENGTH == gold[:, None, None], collection.tokens.ravel()[near] == queries[:, :, None]
        shares = {"gold": right.mean(axis=(0, 1)).tolist(), "same": same.mean(axis=(0, 1)).tolist()}
        return {metric: jnp.mean(values, axis=0).tolist() for metric, values in found.items()} | shares

    middle, most = config.trained_with[len(config.trained_with) // 2], max(config.retrieved)
    return {
        "seeds": training.seeds,
        "retrieved": config.retrieved,
        "tokens": config.collection.documents * LENGTH,
        "out": config.out,
        "judged": f"xtr-{middle}",
        "counted": counted_operations(QUERY_LENGTH * most, config.out)
        / scoring_operations(QUERY_LENGTH, most, config.out, float(LENGTH), 0.0)[0],
        "arms": measured(workspace, (*models, "words"), training.seeds, measure),
    }


def make_loss(config: Config, kind: str) -> Callable:
    """In-batch nats of ColBERT's score, of XTR's, or of one vector, the mean of a text's tokens."""

    def loss(params: Params, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        del key
        queries, documents = (encode(config.model, params, batch[name]) for name in ("queries", "documents"))
        if kind == "single":
            scores = pooled(queries) @ pooled(documents).T
        else:
            similar = token_similarities(queries, documents, jnp.ones(documents.shape[:2], bool))
            mask = jnp.ones(queries.shape[:2], bool)
            k = kind.removeprefix("xtr-")
            scores = colbert_score(similar, mask) if kind == "colbert" else xtr_score(similar, mask, int(k))
        return contrastive_loss(scores, config.temperature), {}

    return loss


def pooled(vectors: jax.Array) -> jax.Array:
    mean = jnp.mean(vectors, axis=1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def counted_operations(candidates: int, width: int) -> float:
    """What XLA counts for ColBERT's scores of so many candidates, without the mask that real documents need."""
    query, documents = jnp.zeros((QUERY_LENGTH, width)), jnp.zeros((candidates, LENGTH, width))
    program = jax.jit(lambda q, d: jnp.mean(jnp.max(jnp.einsum("nd,cmd->cnm", q, d), axis=-1), axis=-1))
    return float((program.lower(query, documents).compile().cost_analysis() or {})["flops"])


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What the paper says, whether the encoders learned more than words, and the arithmetic of its table."""
    arms, xtr, retrieved, paper = Arms(results), results["judged"], results["retrieved"], "lee2023rethinking"
    most, few = retrieved[-1], retrieved[1] if len(retrieved) > 2 else retrieved[0]
    at = list(retrieved).index(few)
    lost = {arm: arms[arm, "whole"][:, None] - arms[arm, "last"] for arm in ("colbert", xtr)}
    early = {arm: {kind: arms[arm, kind][:, :FIRST].mean(axis=1) for kind in ("gold", "same")} for arm in lost}
    gathering, direct = scoring_operations(QUERY_LENGTH, most, results["out"], float(LENGTH), arms[xtr, "found"][:, -1])
    return [
        Claim(
            "retrieved_scores_suffice",
            f"Trained with XTR's score, a model loses under .02 of MRR@{BEST} when the {most} tokens that each word retrieves score alone, "
            f"and with {few} of them less than one trained with ColBERT's.",
            f"{paper}: table 5",
            {"lost by XTR": lost[xtr][:, -1], "more lost by ColBERT": lost["colbert"][:, at] - lost[xtr][:, at]},
            {"lost by XTR": below(0.02), "more lost by ColBERT": above(0)},
            f"MRR@{BEST}",
            "37.4 against 27.7 without gathering",
        ),
        Claim(
            "more_gold_tokens",
            f"Among the first {FIRST} tokens that a word retrieves, more are of the right document and fewer are the word itself.",
            f"{paper}: figure 4",
            {
                "more of the right document": early[xtr]["gold"] - early["colbert"]["gold"],
                "fewer of the same word": early["colbert"]["same"] - early[xtr]["same"],
            },
            above(0),
            "share of tokens",
        ),
        Claim(
            "imputation_order",
            f"With {few} retrieved tokens a missing similarity is best put at the last retrieved one, then at 0, then left out.",
            f"{paper}: table 5",
            {
                "last over 0": arms[xtr, "last"][:, at] - arms[xtr, "zero"][:, at],
                "0 over nothing": arms[xtr, "zero"][:, at] - arms[xtr, "nothing"][:, at],
            },
            above(0),
            f"MRR@{BEST}",
            "37.4, 36.2 and 22.6",
        ),
        Claim(
            "flops_as_in_closed_form",
            "XLA counts for ColBERT's scoring what the paper's formula says, over a hundred times what XTR's needs.",
            f"{paper}: table 1, abstract",
            {"counted over the formula's": results["counted"], "fewer operations, times": gathering / direct},
            {"counted over the formula's": between(0.95, 1.05), "fewer operations, times": above(100)},
            "times",
            "4000 times, with longer documents and vectors",
        ),
        Claim(
            "better_than_words",
            "With all tokens its encoder finds documents that BM25, a search by words, does not.",
            OURS,
            {
                "over BM25": arms[xtr, "whole"] - arms["words", "whole"],
                "over an untrained encoder": arms[xtr, "whole"] - arms["untrained", "whole"],
            },
            above(0),
            f"MRR@{BEST}",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """MRR@10 against tokens retrieved, by training (dotted: with all tokens) and imputation; by rank, right tokens and the same word."""
    arms, retrieved = Arms(results), results["retrieved"]
    names = [arm for arm in arms if arm.startswith("xtr")]
    colors = dict(zip(names, (SKY, BLUE, PURPLE), strict=False))
    labels = {"colbert": ("ColBERT", VERMILION)} | {
        arm: (f"XTR, k {arm.removeprefix('xtr-')}", colors[arm]) for arm in names
    }
    titles = ("retrieved tokens score", "a missing similarity, XTR", "tokens of the right document", "the same word")
    drawn, axes = panels(2, 2, titles=titles)
    by_training, by_imputation, gold, same = axes
    curves(by_training, retrieved, arms, "last", labels, ticks=True)
    for arm, (label, color) in {"words": ("BM25", BLACK), "single": ("one vector a text", GREY)}.items():
        reference(by_training, arms[arm, "whole"].mean(), label, color)
    for arm, (_, color) in labels.items():
        by_training.axhline(arms[arm, "whole"].mean(), color=color, linestyle=":", linewidth=1)
    xtr, chosen = results["judged"], {"last": ("last", BLUE), "zero": ("0", GREEN), "nothing": ("left out", ORANGE)}
    for kind, label in chosen.items():
        curves(by_imputation, retrieved, arms, kind, {xtr: label}, ticks=True)
    reference(by_imputation, arms[xtr, "whole"].mean(), "all tokens")
    for panel in (by_training, by_imputation):
        panel.set(xlabel="tokens retrieved by a word", ylabel=f"MRR@{BEST}", ylim=(0, 1))
    by_imputation.legend(loc="lower right")
    drawn.legend(*by_training.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    for panel, metric in ((gold, "gold"), (same, "same")):
        for arm, (_, color) in labels.items():
            shares = arms[arm, metric]
            panel.plot(range(1, RANKS + 1), shares.mean(axis=0), color=color)
            panel.fill_between(range(1, RANKS + 1), shares.min(axis=0), shares.max(axis=0), color=color, alpha=0.2)
        panel.set(xlabel="rank", ylabel="share of retrieved tokens", ylim=(0, None))
    return drawn
