"""Fields that say what they allow."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from lexinv.validation import Checked, Count, Distinct, InvalidConfig, Seeds, constraints, one_of, some_of


@dataclass(frozen=True)
class Part(Checked):
    steps: Count = 3
    cap: Count | None = None
    seeds: Seeds = (0, 1)
    kinds: Annotated[tuple[str, ...], some_of(("a", "b"))] = ("a",)
    kind: Annotated[str, one_of(("a", "b"))] = "a"
    names: Distinct[str] = ("x",)

    def checks(self):
        yield self.cap is None or self.cap <= self.steps, "cap", f"at most steps = {self.steps}"


@dataclass(frozen=True)
class Whole(Checked):
    part: Part = Part()

    def checks(self):
        yield self.part.steps > 2, "part.steps", "above 2"


CASES = [(field, bad) for field, said in constraints(Part).items() for one in said for bad in one.refused]


@pytest.mark.parametrize("field, bad", CASES)
def test_what_an_annotation_refuses_is_refused_by_name(field, bad):
    with pytest.raises(InvalidConfig, match=f"^{field} = "):
        Part(**{field: bad})


def test_every_annotated_field_is_constrained():
    assert {field for field, _ in CASES} == {"steps", "cap", "seeds", "kinds", "kind", "names"}


def test_none_stands_for_itself():
    assert Part(cap=None).cap is None
    assert Part(cap=3).cap == 3


@pytest.mark.parametrize(
    "make, message", [(lambda: Part(cap=4), "cap = 4"), (lambda: Whole(Part(2)), "part.steps = 2")]
)
def test_conditions_of_several_fields(make, message):
    with pytest.raises(InvalidConfig, match=message):
        make()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_repeats_another_key_is_refused(seed):
    with pytest.raises(InvalidConfig, match=r"below 2\*\*32"):
        Part(seeds=(0, seed))
