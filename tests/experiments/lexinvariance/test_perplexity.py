"""The gap that remains is a ratio of relative gaps; a mesh that is not there is refused first."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.harness.workspace import Workspace
from experiments.lexinvariance.perplexity import PRESETS, remaining_gap, run
from lexinv.validation import InvalidConfig


def test_remaining_gap_is_a_ratio_of_relative_gaps():
    behind = np.zeros((1, 32))
    behind[:, 8:16], behind[:, 16:] = np.log(9.0), np.log(3.0)  # 8 and 2 times the standard perplexity
    assert remaining_gap({"standard": {"nats": 0 * behind}, "lexinvariant": {"nats": behind}}) == pytest.approx([0.25])


def test_a_mesh_without_devices_is_refused_before_anything_else(tmp_path):
    config = PRESETS["smoke"]
    mesh = replace(config.training.mesh, data=4)
    with pytest.raises(InvalidConfig, match="devices there are"):
        run(replace(config, training=replace(config.training, mesh=mesh)), Workspace(tmp_path, "hash"))
    assert not list(tmp_path.iterdir())
