"""How documents are divided, and what counts as a superword."""

import pytest

from experiments.subjects import vocabularies
from experiments.subjects.vocabularies import HELD_OUT, Vocabularies, divided, superword_shares
from lexinv.data.documents import Source
from lexinv.validation import InvalidConfig

FAMILIES = ["deprecated_GPL", "GPL", "MIT", *(f"F{number}" for number in range(18))]


def test_families_of_licences_are_held_out_whole(monkeypatch):
    texts = {f"{family}-{version}": f"{family} {version} ".ljust(100, "x") for family in FAMILIES for version in "123"}
    found = Source("", lambda: {name: (lambda text=text: text) for name, text in texts.items()})
    monkeypatch.setattr(vocabularies.documents, "licences", lambda: found)
    held = set[str]()
    for seed in range(5):
        division = divided("licences", seed, 10**9)
        assert sorted(division.train + division.held) == sorted(texts.values())
        sides = [
            {text.split()[0].removeprefix("deprecated_") for text in side} for side in (division.train, division.held)
        ]
        assert not sides[0] & sides[1]
        assert HELD_OUT <= len("".join(division.held)) / len("".join(texts.values())) < HELD_OUT + 0.1
        held |= sides[1]
    assert len(held) > 6  # other families with every seed
    few = divided("licences", 0, 2000)
    assert 2000 <= len("".join(few.train + few.held)) < 2600  # the last family may be the largest


def test_a_superword_has_a_space_between_others():
    pieces = [b" of the", b" of", b"of ", b"  ", b"", b"a b", *([b"x"] * 26)]
    assert superword_shares(pieces) == [0.5, 0.0, 0.5] + [0.0] * 13


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"size": 5000}, "size"),
        ({"sizes": (8192, 1024)}, "sizes"),
        ({"transitions": (0.9, 0.3)}, "transitions"),
        ({"transitions": (0.01, 0.9)}, "transitions"),
        ({"domain_sizes": (2048,)}, "domain_sizes"),
        ({"published": ("j2",)}, "published"),
    ],
)
def test_refused_settings(change, field):
    with pytest.raises(InvalidConfig, match=f"^{field} = "):
        Vocabularies(**change)
