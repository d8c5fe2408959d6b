from dataclasses import dataclass, replace
from typing import Literal

import pytest

from experiments.harness.config import config_hash, from_json, to_json
from lexinv.validation import InvalidConfig


@dataclass(frozen=True)
class Part:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Config:
    part: Part = Part()
    seeds: tuple[int, ...] = (0, 1)
    pair: tuple[int, str] = (1, "x")
    parts: tuple[Part, ...] = (Part(), Part(kind="b"))
    optional: Part | None = None
    number: int | str = 3
    flag: bool = False


def test_round_trip():
    config = Config(optional=Part(rate=2.0), number="many", flag=True)
    assert from_json(Config, to_json(config)) == config
    assert to_json(config)["parts"] == [{"rate": 0.5, "kind": "a"}, {"rate": 0.5, "kind": "b"}]


@pytest.mark.parametrize(
    ("change", "field", "allowed"),
    [
        ({"part": {"rate": 1.0}}, "config.part.kind", "missing"),
        ({"part": {"rate": 1.0, "kind": "a", "x": 1}}, "config.part.x", "known: rate, kind"),
        ({"part": {"rate": 1.0, "kind": "c"}}, "config.part.kind", "'a', 'b'"),
        ({"part": {"rate": True, "kind": "a"}}, "config.part.rate", "float"),
        ({"part": [1]}, "config.part", "Part"),
        ({"seeds": [0, 1.5]}, r"config.seeds\[1\]", "int"),
        ({"seeds": [True]}, r"config.seeds\[0\]", "int"),
        ({"seeds": 3}, "config.seeds", "list"),
        ({"pair": [1]}, "config.pair", "2 values"),
        ({"optional": {"rate": "x", "kind": "a"}}, "config.optional.rate", "float"),
        ({"number": None}, "config.number", "int"),
        ({"flag": 0}, "config.flag", "bool"),
        ({"unknown": 0}, "config.unknown", "known: part, seeds"),
    ],
)
def test_wrong_fields_are_named(change, field, allowed):
    with pytest.raises(InvalidConfig, match=rf"^{field} = .*{allowed}"):
        from_json(Config, {**to_json(Config()), **change})


def test_hash_names_the_value():
    assert config_hash(Config()) == config_hash(Config(part=Part(rate=0.5)))
    assert config_hash(Config(part=Part(rate=2))) == config_hash(Config(part=Part(rate=2.0)))
    assert config_hash(Config()) == "512d66777233da98"  # committed records and run folders are named by it
    changed = [replace(Config(), seeds=(1, 0)), replace(Config(), flag=True), replace(Config(), part=Part(kind="b"))]
    assert len({config_hash(config) for config in [Config(), *changed]}) == 4


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="tuples, numbers"):
        to_json(Config(part={1, 2}))
    with pytest.raises(InvalidConfig, match=r"config.part.rate = nan .* finite"):
        config_hash(Config(part=Part(rate=float("nan"))))


def test_what_older_code_wrote_is_filled_up_with_defaults():
    written = {"part": {"rate": 2.0}, "seeds": [4]}
    assert from_json(Config, written, older=True) == Config(part=Part(rate=2.0), seeds=(4,))
    with pytest.raises(InvalidConfig, match=r"config.part.kind.*missing"):
        from_json(Config, to_json(Config()) | {"part": {"rate": 2.0}})
    with pytest.raises(InvalidConfig, match=r"config.part.rates.*known: rate, kind"):
        from_json(Config, {"part": {"rates": 2.0}}, older=True)
