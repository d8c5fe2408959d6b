"""What environment.json says of a run beside packages and clocks: texts that were folded, and kernels of attention."""

import json
from dataclasses import replace

import pytest

from experiments.benchmarks.train_step import TINY, Config
from experiments.harness import record
from experiments.harness.corpora import note_folded
from experiments.harness.workspace import Workspace
from experiments.subjects.token_costs import TokenizerConfig, fertilities
from lexinv.data.corpora import Corpus
from lexinv.nn.attention import Device
from lexinv.validation import InvalidConfig


def test_what_tokenizers_fold_is_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "judge_and_draw", lambda *_, **__: [])
    workspace = Workspace(tmp_path, "hash")
    with workspace.session(
        dict.fromkeys(("git_commit", "device_kind", "cpu"), "") | {"git_dirty": False, "attention": {"model": "whole"}}
    ):
        note_folded(workspace, "file:notes/*", "letters", {"train": 0.02})
        note_folded(workspace, "file:notes/*", "letters", {"train": 0.02, "test": 0.0})
    record.finish(workspace, record, {})
    environment = json.loads((tmp_path / "environment.json").read_text())
    shares = {"train": 0.02, "test": 0.0}
    assert environment["folded"] == [{"corpus": "file:notes/*", "tokenizer": "letters", "shares": shares}]
    assert environment["attention"] == {"model": "whole"}


def test_the_kernel_of_every_model_is_named_by_its_place(monkeypatch):
    """A GPU's in bfloat16 is cuDNN's, where its heads fit; what was asked for stays."""
    half = replace(TINY, model=replace(TINY.model, dtype="bfloat16"))
    asked = replace(TINY, model=replace(TINY.model, attention="dot_product"))
    config = replace(Config(), problem=half, overhead=(TINY, asked))
    assert record.attention_kernels(config)["problem.model"] == "chunked"
    monkeypatch.setattr("lexinv.nn.attention.device_here", lambda: Device("gpu", (9, 0)))
    found = record.attention_kernels(config)
    assert {found[name] for name in ("population.model", "overhead.0.model", "overhead.1.model")} == {"dot_product"}
    assert found["problem.model"] == "cudnn"


def test_a_tokenizer_that_loses_a_kind_of_text_has_no_price_for_it():
    corpora = {"prose": Corpus("prose", "0", {"test": ["some words."] * 20})}
    config = TokenizerConfig("prose", "prose", (("byte", "prose"), ("letters", "prose")), 160)
    with pytest.raises(InvalidConfig, match="100.0 % of the characters of digits"):
        fertilities(config, corpora, 0, {})
