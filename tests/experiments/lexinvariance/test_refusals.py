"""Conditions of several fields, which no annotation can say, are refused where a configuration is made."""

import pytest

from experiments.harness.registry import load
from experiments.harness.sweep_algebra import override
from lexinv.validation import InvalidConfig

CASES = [
    ("perplexity", {"data.context": 16}, "context"),
    ("perplexity", {"data.context": 1024}, "data.context"),
    ("perplexity", {"data.packing": "documents", "training.microbatches": 2}, "training.microbatches"),
    ("perplexity", {"model.causal": False}, "model.causal"),
    ("perplexity", {"followed": 1000}, "followed"),
    ("bayes_decipherer", {"model.causal": False}, "model.causal"),
    ("bayes_decipherer", {"source.context": 1024}, "source.context"),
    ("bayes_decipherer", {"source.context": 3}, "context"),
    ("bayes_regret", {"vocabularies": (9,)}, "vocabularies"),
    ("bayes_regret", {"concentrations": (0.0,)}, "concentrations"),
    ("bayes_regret", {"length": 4}, "length"),
    ("decipher", {"decipher.filtered": 65}, "filtered"),
    ("decipher", {"decipher.windows": 250}, "decipher.windows"),
    ("forgetting", {"evaluate_every": 400}, "evaluate_every"),
    ("forgetting", {"temporary_until": 1500}, "temporary_until"),
    ("forgetting", {"model.causal": True}, "model.causal"),
    ("forgetting", {"usual": (2.0, 0.1)}, "usual"),
    ("forgetting", {"vocabularies": (100, 101)}, "task.vocab"),
    ("forgetting", {"ambiguities": (0.1,)}, "ambiguities"),
    ("in_context", {"suite.symbols": "abcdefgh"}, "symbols"),
    ("in_context", {"suite.length": 6}, "symbols"),
    ("in_context", {"handed_steps": 15}, "handed_steps"),
    ("in_context", {"model.mixing": "none"}, "handed_steps"),
    ("in_context", {"model.initialization": "suffix_match"}, "model.initialization"),
    ("pac_invariance", {"variables": (5,)}, "variables"),
    ("pac_invariance", {"model_variables": 30}, "model_variables"),
    ("pac_invariance", {"epsilons": (0.0, 0.1)}, "epsilons"),
    ("pac_invariance", {"drawn": 100}, "fresh"),
    ("pac_invariance", {"environments": (4, 2)}, "environments"),
    ("pac_invariance", {"shifts": (0.0, 2.0)}, "shifts"),
    ("threads", {"followers.fewest_pairs": 1}, "fewest_pairs"),
    ("threads", {"followers.model.max_length": 50}, "model.max_length"),
    ("threads", {"followers.training.microbatches": 2}, "training"),
    ("threads", {"reader.pairs": (10, 4, 24, 50)}, "pairs"),
    ("threads", {"reader.pairs": (3, 10, 24, 50)}, "pairs"),
    ("threads", {"reader.items": (8, 4)}, "items"),
    ("threads", {"reader.items": (8, 4, 2, 0)}, "items"),
    ("threads", {"reader.depths": (0.0, 100.0)}, "depths"),
    ("threads", {"reader.depths": (0.0, 50.0, 100.0, 101.0)}, "depths"),
    ("threads", {"reader.links": (3, 2)}, "links"),
    ("threads", {"tokenizers.characters": 79}, "characters"),
    ("threads", {"tokenizers.tokenizers": (("byte", "kjv"),)}, "tokenizers"),
    ("vocabulary", {"prose": "python-stdlib"}, "prose"),
    ("vocabulary", {"tokenizers": ("byte",)}, "tokenizers"),
    ("vocabulary", {"context": 8}, "context"),
]


@pytest.mark.parametrize(
    "name, changes, field", CASES, ids=[f"{name}-{next(iter(changes))}" for name, changes, _ in CASES]
)
def test_impossible_configurations_are_refused(name, changes, field):
    with pytest.raises(InvalidConfig) as error:
        override(load(f"lexinvariance/{name}").PRESETS["cpu"], changes)
    assert error.value.field == field
