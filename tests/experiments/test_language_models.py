"""Shared models are found by all that decides them; a mesh that does not fit is refused."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.harness import shared_models
from experiments.harness.training import Training
from experiments.harness.workspace import Workspace
from experiments.subjects import language_models
from experiments.subjects.language_models import shared_seeds, train_seeds, training_mesh, untrained_seeds
from lexinv.data.windows import TokenStream, window_source
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import InvalidConfig

VOCAB = 5
MODEL = TransformerConfig(depth=1, width=8, heads=1, mlp_width=8)
TRAINING = Training(steps=2, batch_size=2, seeds=(0, 1), optimizer=OptimizerConfig(warmup_steps=1))
STANDARD = LexiconConfig()
TEXT = {"fingerprint": "0"}


@pytest.fixture
def source():
    return window_source(TokenStream((np.arange(200) % VOCAB).astype(np.uint8), np.array([0, 200])), 8)


@pytest.fixture
def train(tmp_path, source, monkeypatch):
    monkeypatch.setenv("LEXINV_CACHE", str(tmp_path / "cache"))

    def shared(run: str, text=TEXT, model=MODEL, lexicon=STANDARD, configured=TRAINING):
        workspace = Workspace(tmp_path / run, run, progress=False)
        return shared_seeds(text, model, lexicon, VOCAB, source, configured, workspace)

    return shared


def test_the_untrained_models_are_those_that_training_begins_with(tmp_path, source):
    begun = []

    def evaluate(state):
        begun.append(jax.tree.map(np.array, state.params))
        return {"first": begun[-1]["table"][:, 0, 0]}

    train_seeds(
        "models", MODEL, STANDARD, VOCAB, source, TRAINING, Workspace(tmp_path, "hash", progress=False), evaluate
    )
    for index, params in enumerate(untrained_seeds(MODEL, STANDARD, VOCAB, TRAINING.seeds)):
        for wanted, found in zip(jax.tree.leaves(begun[0]), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(found, wanted[index])
    assert len(begun) == 1 + TRAINING.steps


def test_whatever_decides_the_models_tells_them_apart(train, monkeypatch):
    monkeypatch.setattr(language_models, "train_seeds", lambda *_: [])
    changes = [
        {},
        {"text": {"fingerprint": "1"}},
        {"model": replace(MODEL, mlp_width=16)},
        {"lexicon": LexiconConfig("lexinvariant")},
        {"configured": replace(TRAINING, seeds=(0, 2))},
    ]
    identities = [train("run", **change).identity for change in changes]
    for name, other in (("training_code", lambda *_: "other code"), ("version", lambda name: "0" * (name == "jaxlib"))):
        with monkeypatch.context() as patch:
            patch.setattr(shared_models, name, other)
            identities.append(train("run").identity)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="NVIDIA H200")])
        identities.append(train("run").identity)
    with jax.enable_x64(True):
        identities.append(train("run").identity)
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(
    "mesh, heads, mlp_width, field, allowed",
    [
        (MeshConfig(model=4), 2, 8, "training.mesh.model", "model.heads = 2"),
        (MeshConfig(model=3), 6, 8, "training.mesh.model", "model.mlp_width = 8"),
        (MeshConfig(model=0), 2, 8, "mesh.model", "at least 1"),
        (MeshConfig(data=2, model=1024), 1024, 1024, "mesh", "data * fsdp * model"),
    ],
)
def test_mesh_that_does_not_fit_the_model_or_the_machine_is_refused(mesh, heads, mlp_width, field, allowed):
    model = TransformerConfig(width=3 * 1024, heads=heads, mlp_width=mlp_width, positions="none")
    with pytest.raises(InvalidConfig, match=allowed.replace("*", "[*]")) as error:
        training_mesh(replace(TRAINING, mesh=mesh), model)
    assert error.value.field == field
