import pytest

from experiments.harness.verify import Comparison, compare_claims, differing, repeats, same_environment


def claim(measured, name="slope", holds=True):
    return {"name": name, "measured": measured, "holds": holds}


def around(mean, low=1.0, high=3.0):
    return {"mean": mean, "low": low, "high": high, "n": 3}


@pytest.mark.parametrize(
    "recorded, found, outcome, repeated",
    [
        (around(2.0), around(2.0), "equal", True),
        (around(2.0), around(3.0, 2.0, 4.0), "within", True),
        (around(2.0), around(3.1, 2.0, 4.0), "outside", False),
        (2.0, 2.5, "differs", True),  # nothing says how much a bare number may vary
        (around(2.0, None, None), around(2.5, None, None), "differs", True),
        (around(2.0), 2.0, "within", True),
        (around(2.0), 99.0, "outside", False),
        (around(2.0), "many", "outside", False),
        (around(1.0, 1.0, 1.0), around(1.0 + 1e-12, 1.0, 1.0), "within", True),  # but for rounding
        ({"a": 1.0}, {"b": 1.0}, "outside", False),
        ([1.0], [1.0, 2.0], "outside", False),
    ],
)
def test_a_number_is_judged_by_its_recorded_interval(recorded, found, outcome, repeated):
    rows = compare_claims([claim(recorded)], [claim(found)])
    assert rows == [Comparison("slope", recorded, found, outcome)]
    assert repeats(rows) is repeated


def test_measured_values_are_compared_one_by_one():
    recorded, found = {"a": around(2.0), "b": [1, around(2.0)]}, {"a": around(9.0), "b": [1, around(2.5)]}
    rows = compare_claims([claim(recorded)], [claim(found)])
    assert [(row.name, row.outcome) for row in rows] == [
        ("slope.a", "outside"),
        ("slope.b[0]", "equal"),
        ("slope.b[1]", "within"),
    ]


def test_a_changed_verdict_and_a_claim_of_one_side_do_not_repeat():
    assert not repeats(compare_claims([claim(1.0)], [claim(1.0, holds=False)]))
    assert not repeats(compare_claims([claim(1.0)], []))
    assert not repeats(compare_claims([], [claim(1.0)]))
    assert repeats(compare_claims([claim(1.0)], [claim(1.0)]))


def test_differing_names_every_place():
    recorded = {"a": [1, 2.0, {"b": "x"}], "c": True, "d": [1, 2]}
    assert differing(recorded, recorded) == []
    found = {"a": [1, 2.5, {"b": "y"}], "c": 1, "d": [1], "e": 0}
    assert differing(recorded, found) == ["results.a[1]", "results.a[2].b", "results.c", "results.d", "results.e"]


@pytest.mark.parametrize("change", [{"cpu": "other"}, {"device_count": 2}, {"packages": {"jax": "2"}}])
def test_an_environment_is_the_same_with_its_device_and_versions(change):
    recorded = {"device_kind": "cpu", "device_count": 1, "cpu": "a", "packages": {"jax": "1", "rich": "1"}}
    assert same_environment(
        recorded, recorded | {"packages": {"jax": "1", "rich": "1", "more": "2"}, "started": "later"}
    )
    assert not same_environment(recorded, recorded | {"packages": {"jax": "1"}})
    assert not same_environment(recorded, recorded | change)
