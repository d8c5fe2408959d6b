"""How topics are put together: claims in order, the table, the figure. What a topic claims is tested with the topic."""

import copy

import pytest

from experiments.harness.claims import Interval
from experiments.merging import beyond_efficiency
from experiments.merging.beyond_efficiency import PRESETS, TOPICS, Config, claims, figure, run
from experiments.merging.verdicts import judged
from lexinv.validation import InvalidConfig


class Topic:
    """A stand-in that claims what it measured."""

    def __init__(self, number: int):
        self.number = number

    def measure(self, config, seeds, workspace):
        del config, workspace
        return {"effect": [0.1 * seed for seed in seeds]}

    def judge(self, measured):
        low, *_, high = measured["effect"]
        effect = Interval(sum(measured["effect"]) / 3, low, high, len(measured["effect"]))
        return [judged(self.number, f"claim_{self.number}", "It is better.", "gain", {"gain": effect}, 0.01)]

    def draw(self, measured, axes):
        axes.plot(measured["effect"])


@pytest.fixture
def topics(monkeypatch):
    found = {name: Topic(number) for name, number in zip(TOPICS, range(14, 0, -1), strict=False)}
    monkeypatch.setattr(beyond_efficiency, "TOPICS", found)
    return found


class Memory:
    """A workspace that keeps nothing."""

    def cached(self, name, compute):
        assert name.startswith("topics/")
        return compute()


def test_every_topic_has_its_part_of_the_configuration_and_its_face():
    for name, topic in TOPICS.items():
        assert hasattr(Config(), name) and topic.__name__.endswith(f".{name}")
        assert all(callable(getattr(topic, part)) for part in ("measure", "judge", "draw"))


def test_claims_come_in_the_order_of_their_numbers(topics):
    results = run(Config(seeds=(1, 2, 3)), Memory())
    assert set(results["topics"]) == set(topics) and results["seeds"] == [1, 2, 3]
    numbers = [int(claim.name.split("_")[1]) for claim in claims(results)]
    assert numbers == sorted(numbers) and len(numbers) == len(topics)
    assert all(claim.holds is True for claim in claims(results))


def test_the_figure_has_a_panel_a_topic_with_its_verdict(topics):
    results = run(Config(seeds=(0, 1, 2)), Memory())
    before = copy.deepcopy(results)
    drawn = figure(results)
    assert len(drawn.axes) == len(topics) and results == before
    assert all(axes.get_title("left").endswith("\ninconclusive") for axes in drawn.axes)


@pytest.mark.parametrize(
    "change",
    [{"seeds": ()}, {"seeds": (1, 1)}, {"topics": ()}, {"topics": ("overhead",) * 2}, {"topics": ("weather",)}],
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(InvalidConfig) as error:
        Config(**change)
    assert error.value.field in change


def test_topics_can_be_chosen(topics):
    results = run(Config(topics=("overhead", "migration")), Memory())
    assert list(results["topics"]) == ["overhead", "migration"] and len(claims(results)) == 2


def test_presets_have_enough_seeds():
    assert all(len(preset.seeds) >= 3 for preset in PRESETS.values())
