import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness.config import to_json
from experiments.harness.sweep_algebra import (
    chain,
    configurations,
    describe,
    names,
    override,
    product,
    read_values,
    seed_overrides,
    zipped,
)
from lexinv.validation import InvalidConfig, require


@dataclass(frozen=True)
class Model:
    width: int = 8
    heads: int = 2
    dropout: float | None = None

    def __post_init__(self):
        require(self.width % self.heads == 0, "model.heads", self.heads, f"a divisor of {self.width}")


@dataclass(frozen=True)
class Training:
    learning_rate: float = 1e-3
    seeds: tuple[int, ...] = (10, 11)


@dataclass(frozen=True)
class Config:
    name: str = "x"
    fast: bool = False
    ks: tuple[int, ...] = (1,)
    model: Model = Model()
    training: Training = Training()


BASE = Config()
AXES = st.lists(st.lists(st.integers(), min_size=0, max_size=4), min_size=1, max_size=4)


def sweeps(axes):
    return [[{f"field{index}": value} for value in values] for index, values in enumerate(axes)]


def values(sweep):
    return [tuple(trial.values()) for trial in sweep]


@given(AXES)
def test_product_is_that_of_itertools(axes):
    assert values(product(*sweeps(axes))) == list(itertools.product(*axes))


@given(st.integers(0, 5).flatmap(lambda n: st.lists(st.lists(st.integers(), min_size=n, max_size=n), min_size=1)))
def test_zip_is_that_of_python(axes):
    assert values(zipped(*sweeps(axes))) == list(zip(*axes, strict=True))


def test_names_in_two_parts_are_refused():
    sweep = [{"a": 1}, {"a": 2}]
    for combine in (product, zipped):
        with pytest.raises(InvalidConfig, match="'a'.*each field once"):
            combine(sweep, sweep)
    assert names(chain(sweep, [{"b": 1}])) == ["a", "b"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("training.learning_rate=1e-3,.5,2", [1e-3, 0.5, 2.0]),
        ("training.learning-rate=1", [1.0]),
        ("model.width=4,16", [4, 16]),
        ("model.dropout=None,null,0.1", [None, None, 0.1]),
        ("fast=True,false", [True, False]),
        ("name=a,5,true,b c", ["a", "5", "true", "b c"]),
        ('name="a,b",c', ["a,b", "c"]),
        ("ks=[1,2],[],[3]", [(1, 2), (), (3,)]),
        ('model={"width":4,"heads":1,"dropout":null}', [Model(4, 1)]),
    ],
)
def test_values_have_the_type_of_their_field(argument, expected):
    sweep = read_values(BASE, argument)
    found = [next(iter(trial.values())) for trial in sweep]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]
    assert names(sweep) == [argument.partition("=")[0].replace("-", "_")]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.learning_rat=1", "did you mean 'training.learning_rate'.*known: name, fast, ks, model, model.width"),
        ("model.width.x=1", "known: name"),
        ("model.__class__=1", "known: name"),
        ("model.width", "FIELD=VALUE"),
        ("model.width=", "FIELD=VALUE"),
        ("model.width=1.5", "model.width = '1.5'.*int"),
        ("model.width=4,,8", "model.width = ''.*int"),
        ("model.width=True", "model.width = 'True'.*int"),
        ("training.learning_rate=nan", "finite"),
        ("ks=1", "a list"),
        ("ks=[1,x]", "ks"),
        ('model={"width":4}', "missing field"),
        ("fast=__import__('os')", "fast"),
    ],
)
def test_fields_and_values_that_cannot_be_are_refused(argument, message):
    with pytest.raises(InvalidConfig, match=message):
        read_values(BASE, argument)


def test_a_part_is_replaced_at_once():
    """12 heads do not divide the width 8, nor do 2 heads make sense alone: only both together are checked."""
    assert override(BASE, {"model.heads": 12, "model.width": 24}) == Config(model=Model(24, 12))
    assert override(BASE, {"model": Model(4, 4), "name": "y"}) == Config("y", model=Model(4, 4))
    assert override(BASE, {}) == BASE
    with pytest.raises(InvalidConfig, match="whole part"):
        override(BASE, {"model": Model(), "model.width": 4})


def test_the_trial_that_cannot_be_is_named():
    sweep = product(read_values(BASE, "model.width=8,9"), read_values(BASE, "fast=true"))
    with pytest.raises(InvalidConfig, match=r"model.heads = 2.*divisor of 9 \(in the trial model.width=9 fast=True\)"):
        list(configurations(BASE, sweep))


def test_seeds_count_up_from_the_first():
    assert seed_overrides(BASE, 3) == {"training.seeds": (10, 11, 12)}
    assert seed_overrides(Training(seeds=(0,)), 2) == {"seeds": (0, 1)}
    with pytest.raises(InvalidConfig, match="seeds or training.seeds; known: width"):
        seed_overrides(Model(), 2)
    with pytest.raises(InvalidConfig, match="at least 1"):
        seed_overrides(BASE, 0)


@given(
    st.fixed_dictionaries(
        {
            "training.learning_rate": st.floats(allow_nan=False, allow_infinity=False),
            "model.dropout": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "ks": st.lists(st.integers()).map(tuple),
            "fast": st.booleans(),
        }
    )
)
def test_what_is_shown_of_a_trial_can_be_typed_again(trial):
    again = product(*(read_values(BASE, argument) for argument in describe(trial).split(" ")))
    assert [to_json(override(BASE, overrides)) for overrides in again] == [to_json(override(BASE, trial))]


def test_a_whole_part_can_be_swept():
    parts = '{"width":4,"heads":1,"dropout":null}', '{"width":8,"heads":4,"dropout":0.5}'
    sweep = product(read_values(BASE, f"model={','.join(parts)}"))
    assert [config.model for _, config in configurations(BASE, sweep)] == [Model(4, 1), Model(8, 4, 0.5)]
    assert [describe(trial) for trial in sweep] == [f"model={part}" for part in parts]
    typed = [read_values(BASE, describe(trial))[0] for trial in sweep]
    assert typed == sweep
