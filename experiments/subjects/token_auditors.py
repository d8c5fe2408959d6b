"""Auditors of billed tokens: heads and verifiers that are trained on traces of some domains, and what they and simpler looks catch."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.harness.training import Training, stacked, train
from experiments.harness.workspace import Workspace
from experiments.subjects.audited_traces import SCALE, Billing, Opened, Sessions, Traces
from lexinv.decoding.commitments import Tree, commit, fingerprint_entry, prove, verify
from lexinv.decoding.token_audit import (
    ATTACKS,
    duplicates,
    initialize_match_head,
    initialize_set_verifier,
    match_head,
    set_verifier,
    threshold,
)
from lexinv.nn.language_model import Params
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import Checked, Count, Counts, Fraction

PAPER = list(ATTACKS)[:6]
"""The attacks that the paper considers, on which verifiers are trained."""
SCORES = 4
"""Of a block: mean and least score of its tokens, the share of them that do not belong, its score against question and answer."""
SIDES = ("seen", "held out")
"""Domains that heads and verifier have learned from, and the one that they have not."""
TWO_SIDED = ("types", "zlib")
"""Arms of which padding may leave more or less than honest traces have."""
AT_ONCE = 512
"""Sessions that are scored together."""
CLEAR = 0.05
"""Probability of padding below which the auditor stops opening blocks."""


@dataclass(frozen=True)
class Auditing(Checked):
    """pairs: on which each head learns. sessions: of each attack and rate, for each of both sides; honest: sessions of each side.

    target: share of false alarms, on honest sessions that set the thresholds. counted: sessions of each attack that are committed to whole.
    read: blocks of which it is tried to read them.
    """

    billing: Billing = Billing()
    pairs: Count = 4096
    sessions: Count = 40
    honest: Count = 300
    hidden: Counts = (64, 32)
    target: Fraction = 0.02
    counted: Count = 4
    read: Count = 32
    heads: Training = Training(
        steps=800,
        batch_size=256,
        seeds=(0, 1, 2),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50),
        steps_per_dispatch=50,
    )


@dataclass(frozen=True)
class Audit:
    """An auditor of traces in blocks of this size, with the heads and the verifier that it has learned."""

    auditing: Auditing
    traces: Traces
    block: int
    heads: dict[str, Params]
    verifier: Params

    @property
    def counts(self) -> list[int]:
        """Blocks that are open after each look."""
        billing = self.auditing.billing
        return [look * billing.blocks[-1] // self.block for look in billing.looks]

    def scored(self, opened: Opened) -> Float[np.ndarray, "sessions blocks scores"]:
        parts = np.array_split(np.arange(len(opened.known)), -(-len(opened.known) // AT_ONCE))
        return np.concatenate([_scored(self.heads, opened.embeddings[rows], opened.known[rows]) for rows in parts])

    def honest(self, name: str, held: bool = False) -> Opened:
        return self.traces.opened(self.traces.honest(name, self.auditing.honest, held), self.block, name)

    def padded(self, name: str, attacks: Sequence[str], held: bool = False) -> Opened:
        """All attacks, at all rates one after the other, so many sessions each."""
        count = self.auditing.sessions
        parts = [
            self.traces.padded(name, attack, own, count, self.block, held)
            for attack in attacks
            for own in self.auditing.billing.own
        ]
        return self.traces.opened(Sessions(*map(np.concatenate, zip(*parts, strict=True))), self.block, name)


@jax.jit
def _scored(heads: dict[str, Params], embeddings: Array, known: Array) -> Array:
    """The four scores of every block."""
    means = jnp.mean(embeddings, axis=2)
    whole = jnp.broadcast_to(means[:, :, None], embeddings.shape)
    belong = jnp.clip(match_head(heads["tokens"], embeddings, whole), -8, 8)
    answer = jnp.clip(match_head(heads["answers"], means, jnp.broadcast_to(known[:, None], means.shape)), -8, 8)
    foreign = jnp.mean((belong < 0).astype(jnp.float32), axis=2)
    return jnp.stack([jnp.mean(belong, axis=2), jnp.min(belong, axis=2), foreign, answer], axis=-1)


def trained_audits(auditing: Auditing, traces: Sequence[Traces], workspace: Workspace) -> dict[str, Audit]:
    """By SEED-BLOCK. All heads of a kind are trained in one program, and all verifiers."""
    places = {f"{one.seed}-{block}": (one, block) for one in traces for block in auditing.billing.blocks}
    width, size = traces[0].config.large.width, auditing.heads.batch_size
    pairs = {name: head_pairs(auditing, *place) for name, place in places.items()}

    def head_start(key: Key[Array, ""]) -> Params:
        return initialize_match_head(key, width, auditing.hidden)

    def head_loss(params: Params, given: Any, key: Key[Array, ""]) -> Array:
        chosen = jax.random.randint(key, (size,), 0, len(given["label"]))
        return cross_entropy(match_head(params, given["u"][chosen], given["v"][chosen]), given["label"][chosen])

    def verifier_start(key: Key[Array, ""]) -> Params:
        return initialize_set_verifier(key, SCORES)

    def verifier_loss(params: Params, given: Any, key: Key[Array, ""]) -> Array:
        """Of sessions as they are after a random look."""
        chosen, look = jax.random.split(key)
        at = jax.random.randint(chosen, (size,), 0, len(given["label"]))
        count = given["counts"][jax.random.randint(look, at.shape, 0, len(given["counts"]))]
        mask = jnp.arange(given["scores"].shape[1])[None] < count[:, None]
        return cross_entropy(set_verifier(params, given["scores"][at], mask), given["label"][at])

    def trained(name: str, given: list[Any], start: Callable[..., Params], loss: Callable[..., Array]) -> list[Params]:
        keys = [jax.random.key(place) for place in range(len(given))]
        begun = {"learned": stacked([start(key) for key in keys]), "given": stacked(given)}

        def of_member(params: Params, batch: Any, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
            return loss(params["learned"], jax.lax.stop_gradient(params["given"]), key), {}

        members = tuple((place, auditing.heads.optimizer.learning_rate) for place in range(len(given)))
        found = train(name, begun, of_member, None, auditing.heads, workspace, members=members)
        return [params["learned"] for params in found]

    heads = {
        kind: trained(f"heads/{kind}", [one[kind] for one in pairs.values()], head_start, head_loss)
        for kind in ("tokens", "answers")
    }
    audits = {
        name: Audit(auditing, *place, {kind: found[i] for kind, found in heads.items()}, {})
        for i, (name, place) in enumerate(places.items())
    }
    verifiers = trained("verifiers", [verifier_sets(audit) for audit in audits.values()], verifier_start, verifier_loss)
    return {
        name: replace(audit, verifier=verifier)
        for (name, audit), verifier in zip(audits.items(), verifiers, strict=True)
    }


def cross_entropy(logit: Float[Array, " n"], label: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.mean(jax.nn.softplus(logit) - label * logit)


def head_pairs(auditing: Auditing, traces: Traces, block: int) -> dict[str, dict[str, Array]]:
    """By head what it learns from, on domains that are not held out: u, v and whether u belongs to v.

    Of a block with a random share of foreign tokens: a token and the block's mean. Of an honest block: half with their own question and
    answer, a quarter each with another one on the same domain and on any.
    """
    random = np.random.default_rng((traces.seed, block))
    most = auditing.billing.looks[-1] * auditing.billing.blocks[-1] // block
    sessions = traces.honest("heads", -(-auditing.pairs // most))
    honest = traces.opened(sessions, block, "heads")
    blocks = honest.tokens.reshape(-1, block)[: auditing.pairs]
    foreign = random.random(blocks.shape) < random.uniform(0, 0.8, (len(blocks), 1))
    anything = random.choice(traces.vocabulary(held=False), blocks.shape)
    other = random.choice(blocks.ravel(), blocks.shape)
    mixed = np.where(foreign, np.where(random.random((len(blocks), 1)) < 0.5, anything, other), blocks)
    embedded = traces.fingerprints(mixed).astype(np.float32) / SCALE
    rows, at = np.arange(len(blocks)), random.integers(0, block, len(blocks))
    domain, session = traces.domains(sessions), np.repeat(np.arange(len(sessions.known)), most)[: auditing.pairs]
    alike = np.array([random.choice(np.flatnonzero(domain == domain[one])) for one in session])
    kind, any_session = random.integers(0, 4, len(session)), random.integers(0, len(domain), len(session))
    asked = np.where(kind < 2, session, np.where(kind == 2, alike, any_session))
    means = honest.embeddings.mean(axis=2).reshape(-1, embedded.shape[-1])[: auditing.pairs]
    found = {
        "tokens": (embedded[rows, at], embedded.mean(axis=1), (mixed == blocks)[rows, at]),
        "answers": (means, honest.known[asked], asked == session),
    }
    return {
        head: {name: jnp.asarray(part, jnp.float32) for name, part in zip(("u", "v", "label"), parts, strict=True)}
        for head, parts in found.items()
    }


def verifier_sets(audit: Audit) -> dict[str, Array]:
    """Honest and padded sessions in equal parts, as scores; blocks are padded to the most that any size opens."""
    billing, sets = audit.auditing.billing, [audit.honest("learned"), audit.padded("learned", PAPER)]
    scores = [audit.scored(one) for one in sets]
    equal = min(map(len, scores))
    scores = [one[np.random.default_rng(0).permutation(len(one))[:equal]] for one in scores]
    most = billing.looks[-1] * billing.blocks[-1] // billing.blocks[0]
    room = np.pad(np.concatenate(scores), ((0, 0), (0, most - scores[0].shape[1]), (0, 0)))
    label = np.repeat([0.0, 1.0], equal)
    found = {"scores": room, "label": label, "counts": np.array(audit.counts)}
    return {name: jnp.asarray(part, jnp.float32) for name, part in found.items()}


def judged(audit: Audit) -> dict[str, Any]:
    """What each arm catches on both sides, with thresholds from other honest sessions of the domains that were trained on.

    recalibrated: on the domain that is held out, with a threshold from its own honest sessions. exposed: the share of an honest session
    that is opened until the verifier is sure.
    """
    auditing, groups = audit.auditing, {}
    for held, side in enumerate(SIDES):
        groups[side, "calibration"] = audit.honest("calibration", bool(held))
        groups[side, "honest"] = audit.honest("tested", bool(held))
        groups[side, "padded"] = audit.padded("tested", list(ATTACKS), bool(held))
    scores = {group: audit.scored(opened) for group, opened in groups.items()}
    seen, held_out = SIDES
    arms: dict[str, dict[str, list[Any]]] = {}
    clear = []
    for count in audit.counts:
        found = {group: statistics(audit.verifier, opened, scores[group], count) for group, opened in groups.items()}
        clear.append(found[seen, "honest"]["learned"] < np.log(CLEAR / (1 - CLEAR)))

        def called(arm: str, side: str, kind: str, of: str = seen, found: Any = found) -> np.ndarray:
            return looks_padded(arm, found[side, kind][arm], found[of, "calibration"][arm], auditing.target)

        def caught(arm: str, side: str, of: str = seen, called: Any = called) -> list[list[float]]:
            hits = called(arm, side, "padded", of).reshape(len(ATTACKS), -1, auditing.sessions)
            return hits.mean(axis=-1).round(4).tolist()

        for arm in found[seen, "honest"]:
            row = arms.setdefault(arm, {"caught": [], "alarms": [], "recalibrated": []})
            row["alarms"].append([float(called(arm, side, "honest").mean()) for side in SIDES])
            row["caught"].append([caught(arm, side) for side in SIDES])
            row["recalibrated"].append(caught(arm, held_out, held_out))
    stops = np.where(np.any(clear, axis=0), np.argmax(clear, axis=0), len(clear) - 1)
    return {"arms": arms, "exposed": float(np.array(auditing.billing.exposures)[stops].mean())}


def looks_padded(arm: str, values: np.ndarray, honest: np.ndarray, target: float) -> np.ndarray:
    """Which sessions have a value beyond what so many of the honest ones have; of `TWO_SIDED` arms on either side of their median."""
    if arm in TWO_SIDED:
        values, honest = (np.abs(one - np.median(honest)) for one in (values, honest))
    return values > threshold(honest, target)


def statistics(verifier: Params, opened: Opened, scores: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """By arm a number for each session after so many blocks: the higher, the more it looks padded."""
    scores, fingerprints = scores[:, :count], opened.fingerprints[:, :count]
    own, answer = -scores[..., 0].mean(axis=1), -scores[..., 3].mean(axis=1)
    embeddings = opened.embeddings[:, :count]
    means = embeddings.mean(axis=2)
    alike = cosine(embeddings, means[:, :, None]).mean(axis=(1, 2)) + cosine(means, opened.known[:, None]).mean(axis=1)
    found = {
        "learned": np.asarray(set_verifier(verifier, jnp.asarray(scores), jnp.ones(scores.shape[:2], bool))),
        "rule": own + answer,
        "tokens": own,
        "answers": answer,
        "cosine": -alike,
        "types": [len(np.unique(one)) for one in opened.tokens[:, :count]],  # which can be read
        "zlib": [len(zlib.compress(one.tobytes(), 1)) for one in fingerprints],
        "copies": [duplicates([block.tobytes() for block in one]) for one in fingerprints],
    }
    return {arm: np.asarray(values, np.float64) for arm, values in found.items()}


def cosine(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sum(u * v, axis=-1) / np.maximum(np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1), 1e-6)


def counted(auditing: Auditing, traces: Traces) -> dict[str, Any]:
    """What a count alone catches: of padded sessions, and of traces billed for one token more than they have; what is read of blocks."""
    block, nonce, size = auditing.billing.blocks[0], b"session", auditing.billing.tokens
    sessions = [
        traces.padded("counted", attack, auditing.billing.own[0], auditing.counted, block) for attack in ATTACKS
    ]
    random, caught, more = np.random.default_rng(traces.seed), [], []
    for billed in np.concatenate([one.billed for one in sessions]):
        fingerprints = traces.fingerprints(billed.reshape(-1, block)).reshape(size, -1)
        tree = commit([fingerprint_entry(nonce, index, one) for index, one in enumerate(fingerprints)])

        def opens(index: int, claimed: int, tree: Tree = tree, found: np.ndarray = fingerprints) -> bool:
            at = min(index, size - 1)
            return verify(tree.root, claimed, index, fingerprint_entry(nonce, index, found[at]), prove(tree, at))

        asked = [*random.choice(size, size // auditing.billing.parts, replace=False).tolist(), size - 1]
        caught.append(not all(opens(index, size) for index in asked))
        more.append(not opens(size, size + 1))
    blocks = traces.honest("read", auditing.read).billed.reshape(-1, block)[: auditing.read]
    named = traces.read(traces.fingerprints(blocks)) == blocks
    return {"padded": float(np.mean(caught)), "one_more": float(np.mean(more)), "named": float(np.mean(named))}
