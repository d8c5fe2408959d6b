"""A claim that holds of no untrained model, meshes that cannot be, and the preset that no accelerator has run yet."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.lexinvariance.perplexity import KINDS, PRESETS, claims, run
from lexinv.nn.attention import Device, implementation_on
from lexinv.nn.flops import PEAK_FLOPS, train_flops
from lexinv.validation import InvalidConfig


def test_an_untrained_model_is_not_above_its_start():
    """Its losses differ from those of its start only by what one window differs from another."""
    start, again = 2.0 + 0.01 * np.random.default_rng(0).standard_normal((2, 3, 64))
    arm = {"untrained": start, "bits_per_byte": np.full(3, 2.9), "averaged": again}

    def verdict(nats):
        arms = dict.fromkeys(KINDS, arm | {"nats": nats}) | {"standard": arm | {"nats": again - 1}}
        counter = {"order": 4, "nats": start + 0.5}
        found = claims({"context": 64, "vocab": 7, "counter": counter, "arms": arms})
        return {claim.name: claim.verdict for claim in found}["trained_above_its_start"]

    assert verdict(again) != "holds"
    assert verdict(again - 0.1) == "holds"


def test_a_mesh_without_devices_is_refused_before_anything_else(tmp_path):
    config = replace(PRESETS["smoke"], followed=0)
    mesh = replace(config.training.mesh, data=4)
    with pytest.raises(InvalidConfig, match="devices there are"):
        run(replace(config, training=replace(config.training, mesh=mesh)), Workspace(tmp_path, "hash"))
    assert not list(tmp_path.iterdir())


def test_models_are_not_followed_on_a_mesh():
    config = PRESETS["smoke"]
    with pytest.raises(InvalidConfig, match="followed"):
        replace(config, training=replace(config.training, mesh=replace(config.training.mesh, data=2)))


def test_the_accelerator_preset_is_minutes_of_one_gpu():
    """At a fifth of an H200's peak its training takes four to eight; cuDNN's kernel takes its heads."""
    config = PRESETS["accelerator"]
    model, training, context = config.model, config.training, config.data.context
    assert model.depth >= 6 and len(training.seeds) >= 3
    assert implementation_on(Device("gpu", (9, 0)), model.dtype, model.head_dim, context, model.causal) == "cudnn"
    tokens = len(KINDS) * len(training.seeds) * training.steps * training.batch_size * context
    seconds = tokens * train_flops(model, 256, context) / (0.2 * PEAK_FLOPS["NVIDIA H200"])
    assert 240 < seconds < 480
