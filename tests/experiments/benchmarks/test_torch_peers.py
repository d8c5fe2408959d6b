"""What PyTorch is timed on is the function that ours is: the same numbers from the same parameters and inputs."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import decoding, forgetting, fused_decoding, sae_step
from experiments.benchmarks.merging_problem import MatchingProblem, MergingProblem
from experiments.benchmarks.problems import OPTIMIZER, Problem, jax_problem
from lexinv.nn.transformer import TransformerConfig

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("microbatches", [1, 2])
def test_language_models_train_alike(microbatches):
    """Three steps, of which the last two have seen gradients, clipping and AdamW."""
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.torch_language_model import LanguageModel, make_train_step

    model = TransformerConfig(depth=2, width=32, heads=4, mlp_width=64, positions="learned", max_length=16, unroll=2)
    problem = Problem(model, vocab=11, batch_size=4, context=12, microbatches=microbatches)
    start, step, batches = jax_problem(problem)
    state = start(jax.random.key(1))
    # Away from where gains and biases are one and zero.
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    state = state._replace(params=jax.tree.unflatten(structure, noisy))
    peer_step = make_train_step(LanguageModel(model, state.params), OPTIMIZER, microbatches)
    tokens = torch.from_numpy(problem.batch).long()
    ours, theirs = [], []
    for _ in range(3):
        state, metrics = step(state, jax.tree.map(jnp.asarray, batches))
        ours.append(float(metrics["loss"][0]))
        theirs.append(float(peer_step(tokens)))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    assert ours[0] > ours[2]
    assert abs(ours[0] - math.log(problem.vocab)) > 1e-3


def test_autoencoders_train_alike():
    pytest.importorskip("torch")
    problem = replace(sae_step.PRESETS["smoke"].problems[0], members=2)
    ours = problem.ours()
    found = [ours()[1]["loss"][0] for _ in range(4)]
    assert found[3][0] < found[0][0] and found[0][0] != found[0][1]
    for decode in ("dense", "entries"):
        theirs = replace(problem, decode=decode).theirs(False)
        np.testing.assert_allclose(found, [theirs() for _ in range(4)], rtol=2e-4)


def test_the_loop_that_forgets_learns():
    """Its batches are drawn by PyTorch, so that only the task is the same."""
    pytest.importorskip("torch")
    problem = replace(forgetting.PRESETS["smoke"].problem, period=10_000, steps=200)
    call = problem.theirs(False)
    first, last = call(), [call() for _ in range(3)][-1]
    assert last < first


@pytest.mark.parametrize("r", [0, 3, 20])
def test_vision_transformers_give_the_same_logits(r):
    pytest.importorskip("torch")
    problem = MergingProblem(depth=3, width=32, heads=2, mlp_width=64, across=4, batch_size=2, classes=5, r=r)
    for one in (problem, replace(problem, patch=14, layer_scale=True)):
        np.testing.assert_allclose(one.ours()(), one.theirs(False)(), atol=1e-4)
    halved = replace(problem, dtype="bfloat16", r=0)  # rounding may merge other pairs
    np.testing.assert_allclose(halved.ours()(), halved.theirs(False)(), atol=0.1)


def test_the_same_texts_are_gone_on_with():
    """At temperature 0, with our cache, with PyTorch's and by reading again."""
    pytest.importorskip("torch")
    problem = replace(decoding.PRESETS["smoke"].problem, batch=2, prompt=5, steps=20, slots=28, temperature=0.0)
    texts = np.asarray(problem.ours()())
    np.testing.assert_array_equal(texts, problem.theirs(False)().numpy())
    np.testing.assert_array_equal(texts, replace(problem, way="again").ours()()[:, 4:])


def test_the_same_images_are_drawn(monkeypatch):
    """At temperature 0, with MLPs that add something, which at the beginning add nothing."""
    pytest.importorskip("torch")
    problem = replace(fused_decoding.PRESETS["smoke"].problem, grid=4, side=1)
    params, rng = problem.params(), np.random.default_rng(0)
    for name in ("shuffle", "unshuffle"):
        params[name]["mlp_out"] = 0.3 * rng.standard_normal(params[name]["mlp_out"].shape, np.float32)
    monkeypatch.setattr(type(problem), "params", lambda _: params)
    codes = np.asarray(problem.ours(0.0)())[..., 0]
    assert len(np.unique(codes)) > 2
    np.testing.assert_array_equal(codes, problem.theirs(False, 0.0)().numpy())


def test_tomesd_merges_the_same_pairs():
    torch = pytest.importorskip("torch")
    pytest.importorskip("tomesd")
    problem = MatchingProblem(batch_size=2, height=4, width=6, dim=8, r=5)
    ours = problem.ours()()
    do, undo = problem.theirs(False)()
    x = np.random.default_rng(1).standard_normal((2, 24, 3), np.float32)
    theirs = undo(do(torch.from_numpy(x))).numpy()
    for plan, row, expected in zip(ours.assign, x, theirs, strict=True):
        groups = np.asarray(plan)
        np.testing.assert_allclose([row[groups == group].mean(axis=0) for group in groups], expected, atol=1e-5)


def test_attention_to_selected_tokens_is_alike():
    pytest.importorskip("torch")
    problem = decoding.PRESETS["smoke"].selection
    np.testing.assert_allclose(problem.ours()(), problem.theirs(False)(), rtol=1e-4, atol=1e-5)
