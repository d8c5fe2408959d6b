"""Models under several tokenizers: a byte costs each as much and each sees as many of them; their rates are those that did best."""

from dataclasses import replace

import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects.tokenized_models import TINY, TokenizedConfig, matched, tokenized_models
from lexinv.nn.flops import forward_flops
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.optimizers import OptimizerConfig
from lexinv.validation import InvalidConfig

LIKE = TransformerConfig(depth=2, width=64, heads=4, mlp_width=256)


@pytest.mark.parametrize(("vocab", "context"), [(1024, 82), (4096, 62), (4096, 50)])
def test_matched_models_cost_what_is_asked(vocab, context):
    asked = forward_flops(LIKE, 257, 256) * 256 / context
    found = matched(LIKE, vocab, context, asked)
    assert forward_flops(found, vocab, context) == pytest.approx(asked, rel=0.01)
    assert found.depth == 2 and found.width % (2 * found.heads) == 0


@pytest.mark.long
def test_all_see_as_many_bytes_at_equal_cost_and_learn(tmp_path):
    parts = {name.partition(".")[2]: value for name, value in TINY.items()}
    training = replace(
        TokenizedConfig().training,
        steps=parts["training.steps"],
        seeds=(0, 1),
        optimizer=OptimizerConfig(warmup_steps=5),
    )
    plain = {name: value for name, value in parts.items() if not name.startswith("training.")}
    config = replace(TokenizedConfig(), training=training, **{**plain, "rates": (3e-3, 1e-6)})
    found = tokenized_models(config, Workspace(tmp_path / "run", "hash", False))
    words, superwords = found.values()
    assert superwords.bytes_per_token > 1.01 * words.bytes_per_token
    for each in found.values():
        assert each.flops == pytest.approx(words.flops, rel=0.05)
        assert each.context * each.bytes_per_token == pytest.approx(48, rel=0.06)
        assert each.rate == 3e-3 and each.tried["0.003"] < each.tried["1e-06"] - 0.2  # of ten steps
        assert len(each.params) == 2 and max(each.bits()) < each.tried["0.003"]


def test_refusals():
    with pytest.raises(InvalidConfig, match=r"training\.seeds"):
        TokenizedConfig(training=replace(TokenizedConfig().training, seeds=(100,)))
    with pytest.raises(InvalidConfig, match="context_bytes"):
        TokenizedConfig(context_bytes=1024)
