"""The claims on results made up to satisfy all of them, then spoilt one by one; and what the experiment refuses."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.lexinvariance.perplexity import (
    LEXINVARIANT,
    PRESETS,
    SUFFIX_MATCH,
    claims,
    figure,
    make_redrawn_nll,
    remaining_gap,
    run,
    shuffled,
)
from lexinv.nn.language_model import initialize, make_nll
from lexinv.validation import InvalidConfig

CONTEXT, SEEDS, VOCAB = 64, 3, 29
TIMES = np.arange(CONTEXT)


def rows(curve) -> list:
    """A curve by position, a little different for each seed."""
    return [np.asarray(curve + 0.001 * seed * np.ones(CONTEXT)).tolist() for seed in range(SEEDS)]


def decay(length: float) -> np.ndarray:
    """From ln V at the first position to 1."""
    return 1 + (np.log(VOCAB) - 1) * np.exp(-TIMES / length)


def pair(length: float) -> dict:
    bits = {"bits_per_byte": [2.0] * SEEDS}
    return {"standard": {"nats": rows(0 * TIMES + 1.0), **bits}, "lexinvariant": {"nats": rows(decay(length)), **bits}}


def made_up() -> dict:
    main = pair(12.0)
    redrawn = decay(12.0) + 1.0 * (TIMES >= CONTEXT // 2)
    main["lexinvariant"] |= {
        "nats_of_averaged_draws": rows(decay(12.0) - 0.1),
        "nats_shuffled": rows(0 * TIMES + 3.0),
        "nats_redrawn": rows(redrawn),
    }
    counters = [[(0 * TIMES + nats).tolist() for nats in (2.9, 2.4, 1.9)] for _ in range(SEEDS)]
    worse = {"lexinvariant": {"nats": rows(decay(8.0) + 0.5)}}
    return {
        "corpora": {"code": "a", "prose": "b"},
        "seeds": list(range(SEEDS)),
        "context": CONTEXT,
        "vocab": {"code": VOCAB, "prose": VOCAB},
        "comparison_circuit": "comparison",
        "counters": {name: {"nats": counters, "shuffled": rows(0 * TIMES + 2.9)} for name in ("code", "prose")},
        "arms": {
            "code": {"main": main, "comparison": pair(8.0), "smear": worse, "plain": copy.deepcopy(worse)},
            "prose": {"comparison": pair(20.0)},
        },
    }


def verdicts(results: dict) -> dict:
    return {claim.name: claim.holds for claim in claims(results)}


def test_all_claims_hold_on_results_that_satisfy_them():
    assert set(verdicts(made_up()).values()) == {True}
    assert len(verdicts(made_up())) == 11


def arm(results: dict, circuit: str = "main") -> dict:
    return results["arms"]["code"][circuit]["lexinvariant"]


def never_closing(results):
    arm(results)["nats"] = rows(np.where(TIMES == 0, np.log(VOCAB), 1.5))


def worse_than(order: int):
    def spoil(results):
        for seed in results["counters"]["code"]["nats"]:
            seed[order] = (0 * TIMES + 0.9).tolist()

    return spoil


def ragged_margin(results):
    """Below the counter on average, and above it for one seed."""
    for seed, shift in zip(results["counters"]["code"]["nats"], (1.2, 0.02, 1.3), strict=True):
        seed[2] = (decay(12.0) + shift - 0.06).tolist()


def bad_average(results):
    arm(results)["nats_of_averaged_draws"] = rows(0 * TIMES + 2.0)


def slower_code(results):
    results["arms"]["code"]["comparison"] |= pair(25.0)
    for name in ("smear", "plain"):
        arm(results, name)["nats"] = rows(decay(25.0) + 0.5)


def early_knowledge(results):
    for seed in arm(results)["nats"]:
        seed[0] -= 0.05


def harmless_redraw(results):
    arm(results)["nats_redrawn"] = arm(results)["nats"]


def knowing_shuffled(results):
    arm(results)["nats_shuffled"] = rows(0 * TIMES + 2.8)


def good(circuit):
    def spoil(results):
        arm(results, circuit)["nats"] = rows(decay(8.0) - 0.01)

    return spoil


BEST = {"below_best_in_context_ngram", "averaged_draws_below_best_in_context_ngram"}


@pytest.mark.parametrize(
    "spoil, broken",
    [
        (never_closing, {"gap_closes_with_position"}),
        (worse_than(0), {"below_in_context_unigram", *BEST}),
        (worse_than(1), {"below_in_context_bigram", *BEST}),
        (worse_than(2), BEST),
        (ragged_margin, BEST),
        (bad_average, {"averaged_draws_below_best_in_context_ngram"}),
        (slower_code, {"code_closes_faster_than_prose"}),
        (early_knowledge, {"first_token_is_uniform"}),
        (harmless_redraw, {"redrawn_lexicon_destroys_it"}),
        (knowing_shuffled, {"shuffled_text_gives_frequencies_only"}),
        (good("smear"), {"suffix_match_beats_smear"}),
        (good("plain"), {"suffix_match_beats_plain"}),
    ],
)
def test_every_claim_can_fail(spoil, broken):
    results = made_up()
    spoil(results)
    assert {name for name, holds in verdicts(results).items() if holds is False} == broken


def test_one_seed_cannot_tell():
    results = made_up()
    for arms in results["arms"].values():
        for kinds in arms.values():
            for measured in kinds.values():
                measured.update({name: values[:1] for name, values in measured.items()})
    for counters in results["counters"].values():
        counters.update({name: values[:1] for name, values in counters.items()})
    assert set(verdicts(results).values()) == {None}


def test_remaining_gap_is_a_ratio_of_relative_gaps():
    standard, lexinvariant = np.zeros((1, 32)), np.zeros((1, 32))
    lexinvariant[:, 8:16], lexinvariant[:, 16:] = (
        np.log(9.0),
        np.log(3.0),
    )  # gaps of 8 and 2 times the standard perplexity
    assert remaining_gap(standard, lexinvariant) == pytest.approx([0.25])


def test_figure_shows_the_numbers():
    results = made_up()
    perplexity = figure(results).axes[0]
    assert perplexity.lines[0].get_ydata() == pytest.approx(np.exp(1.001) * np.ones(CONTEXT // 8))
    assert perplexity.get_legend().get_texts()[0].get_text() == "standard, 2.00 bits per byte"


def test_a_redrawn_lexicon_changes_only_what_comes_after():
    model, vocab = replace(SUFFIX_MATCH, width=32, mlp_width=32), 7
    params = initialize(model, LEXINVARIANT, vocab, jax.random.key(0))
    tokens = np.tile(np.arange(4, dtype=np.int32), (2, 8))
    batch = {"tokens": jnp.asarray(tokens), "row": jnp.arange(2)}
    nlls = (jax.jit(make_redrawn_nll(model, vocab)), jax.jit(make_nll(model, LEXINVARIANT, vocab)))
    # Means over lexica: the two functions draw different ones.
    redrawn, kept = (
        np.mean([function(params, batch, jax.random.key(draw)) for draw in range(40)], axis=(0, 1)) for function in nlls
    )
    assert abs(redrawn[8:16].mean() - kept[8:16].mean()) < 0.15
    assert kept[20:24].mean() < 1.0  # the repetition is found,
    assert redrawn[16:20].mean() > kept[16:20].mean() + 1.0  # but not across the change of lexicon


def test_shuffled_keeps_each_window_s_tokens():
    windows = np.random.default_rng(1).integers(9, size=(5, 40))
    assert (np.sort(shuffled(windows), axis=1) == np.sort(windows, axis=1)).all()
    assert (shuffled(windows) != windows).any()


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda config: replace(config, data=replace(config.data, corpora=())), "data.corpora"),
        (lambda config: replace(config, data=replace(config.data, corpora=("kjv", "kjv"))), "data.corpora"),
        (lambda config: replace(config, data=replace(config.data, context=16)), "data.context"),
        (lambda config: replace(config, data=replace(config.data, context=1024)), "data.context"),
        (lambda config: replace(config, data=replace(config.data, packing="documents")), "training.microbatches"),
        (lambda config: replace(config, model=replace(config.model, causal=False)), "model.causal"),
    ],
)
def test_impossible_configurations_are_refused(change, field):
    with pytest.raises(InvalidConfig) as error:
        change(PRESETS["cpu"])
    assert error.value.field == field


def test_a_mesh_without_devices_is_refused_before_anything_else(tmp_path):
    config = PRESETS["smoke"]
    mesh = replace(config.training.mesh, data=4)
    with pytest.raises(InvalidConfig, match="devices there are"):
        run(replace(config, training=replace(config.training, mesh=mesh)), Workspace(tmp_path, "hash"))
    assert not list(tmp_path.iterdir())
