import dataclasses
import json
from pathlib import Path

import pytest

from experiments.harness import record
from experiments.harness.verify import (
    TIMED,
    Agreement,
    Comparison,
    compare_claims,
    compare_results,
    describe,
    repeats,
    same_environment,
    verdict,
)

RECORD = record.Record(Path(), "toy/line", "cpu", {}, {}, {}, [])
ALL = Agreement(1, 1, [], True)


def claim(measured, name="slope", verdict="holds"):
    return {"name": name, "measured": measured, "verdict": verdict}


def around(mean, low=1.0, high=3.0):
    return {"mean": mean, "low": low, "high": high, "n": 3}


@pytest.mark.parametrize(
    "recorded, found, outcome, repeated",
    [
        (around(2.0), around(2.0), "equal", True),
        (around(2.0), around(3.0, 2.0, 4.0), "within", True),
        (around(2.0), around(3.1, 2.0, 4.0), "outside", False),
        (2.0, 2.5, "differs", True),
        (2.0, 4.1, "outside", False),  # more than a factor of two
        (4.1, 2.0, "outside", False),
        (2.0, -2.0, "outside", False),
        (around(2.0, None, None), around(2.5, None, None), "differs", True),
        (around(2.0, None, None), around(2000.0, None, None), "outside", False),
        (around(2.0), 2.0, "within", True),
        (around(2.0), 99.0, "outside", False),
        (around(1.0, 1.0, 1.0), around(1.0 + 1e-12, 1.0, 1.0), "within", True),  # but for rounding
        (1.0, True, "outside", False),
        ({"a": 1.0}, {"b": 1.0}, "outside", False),
        ([1.0], [1.0, 2.0], "outside", False),
    ],
)
def test_a_number_of_a_claim_is_judged_by_its_recorded_interval(recorded, found, outcome, repeated):
    rows = compare_claims([claim(recorded)], [claim(found)])
    assert rows == [Comparison("slope", recorded, found, outcome)]
    assert repeats(rows, ALL) is repeated


def test_measured_values_are_compared_one_by_one():
    recorded, found = {"a": around(2.0), "b": [1, around(2.0)]}, {"a": around(9.0), "b": [1, around(2.5)]}
    rows = compare_claims([claim(recorded)], [claim(found)])
    assert [(row.name, row.outcome) for row in rows] == [
        ("slope.a", "outside"),
        ("slope.b[0]", "equal"),
        ("slope.b[1]", "within"),
    ]


def test_noise_beside_large_numbers_may_differ():
    recorded, found = {"a": 100.0, "b": [0.1, -0.2]}, {"a": 90.0, "b": [-0.4, 0.3]}
    assert [row.outcome for row in compare_claims([claim(recorded)], [claim(found)])] == ["differs"] * 3


def test_a_changed_verdict_and_a_claim_of_one_side_do_not_repeat():
    one, other = [claim(1.0)], [claim(1.0, verdict="open")]
    for recorded, found, repeated in ((one, one, True), (one, other, False), (one, [], False), ([], one, False)):
        assert repeats(compare_claims(recorded, found), ALL) is repeated


@pytest.mark.parametrize(("holds", "word"), [(True, "holds"), (False, "refuted"), (None, "open")])
def test_verdicts_of_older_records_are_the_same_words(holds, word):
    old = {"name": "slope", "measured": 1.0, "holds": holds}
    assert verdict(old) == verdict({"verdict": word}) == word
    assert repeats(compare_claims([old], [claim(1.0, verdict=word)]), ALL)


RESULTS = {"a": [1, 2.0, {"b": "x"}], "c": True, "d": [1, 2], "arms": {"e": {"f": [0.5, 0.0]}}}


def compare(found, same=True, **changes):
    return compare_results(dataclasses.replace(RECORD, results=RESULTS, **changes), found, same)


def test_every_value_of_the_results_is_compared():
    assert compare(RESULTS) == Agreement(8, 8, [], True)
    found = {"a": [1, 2.5, {"b": "y"}], "c": 1, "d": [1], "arms": {"e": {}}, "new": 0}
    places = ["results.a[1]", "results.a[2].b", "results.c", "results.d", "results.arms.e.f"]
    agreement = compare(found)
    assert agreement == Agreement(6, 1, places, True)
    assert not agreement.agrees and not repeats([], agreement)
    assert "5 are not within 1e-06 of one another, as results.a[1], results.a[2].b, results.c" in describe(agreement)


@pytest.mark.parametrize(
    ("value", "same", "agrees"),
    [
        (2.0 * (1 + 9e-7), True, True),
        (2.0 * (1 + 2e-6), True, False),
        (1e-30, True, False),
        (3.9, False, True),
        (4.1, False, False),
    ],
)
def test_tolerances_are_relative(value, same, agrees):
    assert compare({**RESULTS, "a": [1, value, {"b": "x"}]}, same).places == ([] if agrees else ["results.a[1]"])


def test_elsewhere_most_of_the_results_must_agree():
    """Trainings part there, so one number may; all numbers times 1000 are another matter."""
    one = {**RESULTS, "a": [1.1, 2000.0, {"b": "x"}]}
    assert repeats([], compare(one, same=False)) and not repeats([], compare(one))
    scaled = {**RESULTS, "a": [1000, 2000.0, {"b": "x"}], "d": [1000, 2000], "arms": {"e": {"f": [500.0, 0.0]}}}
    assert not repeats([], compare(scaled, same=False))


def test_clocks_and_identities_are_not_compared():
    """Nor whether they are there: they are to leave the results."""
    recorded = {
        "arms": {"own": {"models": "0123456789abcdef", "seconds_elsewhere": 12.5}, "fast": {"speed": [1.5], "x": 1.0}},
        "topics": {"rows": [{"seconds": [0.1], "models": {"a": 2.0}}]},
        "empty": {},
    }
    found = {"arms": {"fast": {"x": 1.0}}, "topics": {"rows": [{"models": {"a": 2.0}}]}, "empty": {}}
    item = dataclasses.replace(RECORD, results=recorded)
    assert compare_results(item, recorded, True) == compare_results(item, found, True) == Agreement(2, 2, [], True)
    found["topics"]["rows"][0]["models"]["a"] = 2.1
    assert compare_results(item, found, True).places == ["results.topics.rows[0].models.a"]
    for name in ("benchmarks/line", "merging/overhead"):
        timed = compare_results(dataclasses.replace(item, experiment=name), {}, True)
        assert timed.agrees and describe(timed) == "results are wall clocks, which claims alone judge"


@pytest.mark.parametrize("change", [{"cpu": "other"}, {"device_count": 2}, {"packages": {"jax": "2"}}])
def test_an_environment_is_the_same_with_its_device_and_versions(change):
    recorded = {"device_kind": "cpu", "device_count": 1, "cpu": "a", "packages": {"jax": "1", "rich": "1"}}
    assert same_environment(
        recorded, recorded | {"packages": {"jax": "1", "rich": "1", "more": "2"}, "started": "later"}
    )
    assert same_environment(recorded, recorded | {"packages": {"jax": "1"}})  # what is not imported decides nothing
    assert not same_environment(recorded, recorded | change)


@pytest.mark.parametrize("item", record.read_records(), ids=lambda item: f"{item.experiment} {item.preset}")
def test_every_record_agrees_with_itself_and_not_with_other_numbers(item):
    """Every plain number times 1000, at any place that is no clock."""

    def scaled(value):
        if isinstance(value, dict):
            return {name: scaled(member) for name, member in value.items()}
        if isinstance(value, list):
            return [scaled(member) for member in value]
        return value if isinstance(value, bool | str) or value is None else 1000 * value

    claims = [{**claim, "measured": scaled(claim["measured"])} for claim in item.claims]
    assert repeats(compare_claims(item.claims, item.claims), compare_results(item, item.results, True))
    assert not repeats(compare_claims(item.claims, claims), ALL)
    for same in (True, False):
        agreement = compare_results(item, scaled(item.results), same)
        assert agreement.agrees is item.experiment.startswith(TIMED)


def test_verify_runs_anew_each_time_and_notices_other_numbers(cli):
    assert cli("run", "toy/line", "cpu", "--record")[0] == 0
    code, out, _ = cli("verify", "toy/line")
    assert code == 0
    assert "on the same machine and versions as the record: all 8 values of the results are equal bit for bit" in out
    assert "toy/line cpu repeats its record" in out

    item = record.RECORDS / "toy/line/cpu"
    results, claims = (json.loads((item / name).read_text()) for name in ("results.json", "claims.json"))
    results["slopes"][1] *= 1 + 2e-6
    claims[0]["measured"]["slope"] |= {"mean": 5.0, "low": 4.9, "high": 5.1}
    for name, value in (("results.json", results), ("claims.json", claims)):
        (item / name).write_text(json.dumps(value))
    code, out, _ = cli("verify", "toy/line", "cpu", "--cached-models")
    assert code == 1
    assert "1 are not within 1e-06 of one another, as results.slopes[1]" in out
    assert "outside   slope_above_one.slope: recorded 5 [4.9, 5.1] (n=3), now 2" in out
    assert "does not repeat" in out
    for number in (1, 2):
        (folder,) = Path("runs/toy/line").glob(f"verify-cpu-*-{number}")
        assert (folder / "computed.txt").read_text() == "0 1 2 "
        assert (folder / "own_models").is_dir() is (number == 1)
