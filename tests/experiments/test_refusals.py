"""What several fields of a configuration must be together; what each may hold alone is tested for all experiments (`test_contract`)."""

from dataclasses import replace

import pytest

from experiments.benchmarks import (
    forgetting,
    merging,
    population,
    sae_step,
    scaling,
    sources_and_tokenizers,
    train_step,
)
from experiments.benchmarks.merging_problem import MatchingProblem
from experiments.harness.training import Training
from experiments.subjects.activation_autoencoders import AutoencodersConfig
from experiments.subjects.markov_models import PopulationConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import MeshConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import InvalidConfig

SCALING, SAE, SOURCES = (module.PRESETS["smoke"] for module in (scaling, sae_step, sources_and_tokenizers))
MERGING = merging.PRESETS["smoke"]


@pytest.mark.parametrize(
    "config, change, field",
    [
        (forgetting.PRESETS["smoke"], {"vocabs": (41, 80)}, "task.vocab"),
        (MERGING, {"r": (2, 0)}, "r"),
        (MERGING, {"r": (2,)}, "r"),
        (MERGING, {"applied": "minilm"}, "applied"),
        (MERGING.problem, {"heads": 3}, "heads"),
        (MatchingProblem(), {"height": 1}, "height"),
        (population.PRESETS["smoke"], {"members": 1}, "members"),
        (population.PRESETS["smoke"], {"trials": 1}, "trials"),
        (SAE, {"members": 1}, "members"),
        (SAE, {"selection": (8, 2)}, "selection"),
        (SAE, {"features": (2, 64)}, "features"),
        (SAE.problems[0], {"k": 65}, "k"),
        (SAE.problems[0], {"features": 3}, "features"),
        (SCALING, {"devices": (1,)}, "devices"),
        (SCALING, {"devices": (2, 4)}, "devices"),
        (SCALING, {"devices": (1, 3)}, "devices"),
        (SCALING, {"vocab": 27}, "devices"),
        (SCALING, {"model": TransformerConfig(width=64, heads=4, mlp_width=64)}, "devices"),
        (SCALING, {"model": replace(SCALING.model, bias=True)}, "model"),
        (SOURCES, {"length": 2}, "length"),
        (SOURCES, {"loop_symbols": 100}, "loop_symbols"),
        (SOURCES, {"size": 29}, "size"),
        (SOURCES, {"whole_texts": (100, 6000)}, "whole_texts"),
        (SOURCES, {"encoded": 40_000}, "encoded"),
        (train_step.PRESETS["smoke"], {"members": 1}, "members"),
        (train_step.TINY, {"microbatches": 3}, "microbatches"),
        (Training(), {"steps_per_dispatch": 7}, "steps_per_dispatch"),
        (Training(), {"microbatches": 3}, "microbatches"),
        (Training(), {"mesh": MeshConfig(3, 1, 8)}, "batch_size"),
        (Training(), {"optimizer": OptimizerConfig(warmup_steps=10**6)}, "optimizer.warmup_steps"),
        (PopulationConfig(), {"steps": 5}, "evaluate_every"),
        (PopulationConfig(), {"learning_rates": (2.0,)}, "learning_rates"),
        (PopulationConfig(), {"optimizer": OptimizerConfig("adamw", 1e-3, 1)}, "optimizer.learning_rate"),
        (AutoencodersConfig(), {"k": 577.0}, "k"),
        (AutoencodersConfig(), {"variants": ("feature_zipf",)}, "variants"),
        (AutoencodersConfig(), {"k": 1.5}, "k"),
        (AutoencodersConfig(), {"features": 2**15}, "training.batch"),
        (AutoencodersConfig(), {"mesh": MeshConfig(model=5)}, "mesh.model"),
    ],
)
def test_impossible_configurations_are_refused(config, change, field):
    with pytest.raises(InvalidConfig) as error:
        replace(config, **change)
    assert error.value.field == field
