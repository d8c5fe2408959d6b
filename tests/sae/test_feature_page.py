"""Top passages and the choice of features by hand; their page, read as HTML, and opened in headless Chromium where there is one."""

from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from lexinv.sae.feature_page import Feature, Page, Passage, Token, render, visible
from lexinv.sae.feature_survey import Survey, choose_features, describe, foretold, specificity, survey, top_windows
from lexinv.validation import InvalidConfig

NASTY = '<script>alert("x")</script>&amp;'


def feature(index: int, word: str, **changes) -> Feature:
    tokens = (Token(" the", 0.0), Token(word, 2.0), Token("\n", 0.5))
    made = Feature(
        index,
        ("densest",) if index % 2 else ("densest", NASTY),
        10.0**-index,
        index,
        2.0,
        (5, 0, 1),
        (Passage(tokens, 1), Passage((Token(word, 1.0), Token("    return", 0.0)), 0)),
        ((word, 0.5),),
        ((" no", -0.5),),
        ((1, 0.9), (77, -0.1)),
    )
    return made._replace(**changes)


PAGE = Page(
    "A <title>",
    "Subtitle & more",
    (("latents", "1 < 2"),),
    (feature(1, " Import"), feature(2, NASTY), feature(12, "def")),
)


class Reader(HTMLParser):
    """Cards of the page, with their attributes, texts of the passages and highlighted tokens; and the scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.cards, self.scripts, self.stack, self.outputs = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("meta", "input", "br", "rect", "path", "link", "img"):
            assert tag not in ("link", "img")
            return
        self.stack.append((tag, attributes))
        if tag == "article":
            self.cards.append({"attributes": attributes, "marks": [], "text": ""})
        if tag == "mark":
            self.cards[-1]["marks"].append([attributes, ""])

    def handle_endtag(self, tag):
        if any(name == tag for name, _ in self.stack):
            while self.stack.pop()[0] != tag:
                pass

    def handle_data(self, data):
        tags = [tag for tag, _ in self.stack]
        if tags and tags[-1] == "script":
            self.scripts.append(data)
        if "mark" in tags:
            self.cards[-1]["marks"][-1][1] += data
        if "article" in tags:
            self.cards[-1]["text"] += data
        if "output" in tags:
            self.outputs.append(data)


def test_every_text_arrives_as_text_and_nothing_is_fetched():
    page = render(PAGE)
    read = Reader(page)
    assert len(read.scripts) == 1 and "alert" not in read.scripts[0]
    first, second, _ = read.cards
    assert second["attributes"]["data-tokens"] == NASTY
    assert [text for _, text in second["marks"]] == [NASTY, "⏎", NASTY]
    assert [text for _, text in first["marks"]] == [" Import", "⏎", " Import"]
    assert "A &lt;title&gt;" in page and "1 &lt; 2" in page and "Subtitle &amp; more" in page
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")


def test_highlights_are_relative_to_the_features_peak():
    marks = Reader(render(PAGE)).cards[0]["marks"]
    assert [attributes["style"] for attributes, _ in marks] == ["--a:1.00", "--a:0.25", "--a:0.50"]
    assert [attributes["class"] for attributes, _ in marks] == ["on peak", "on", "on peak"]
    assert marks[1][0]["title"] == "0.50"


@pytest.fixture
def opened(tmp_path, browse):
    """A function of a fragment: the document as Chromium has it after the page's script ran."""
    file = tmp_path / "features.html"
    file.write_text(render(PAGE), encoding="utf-8")
    return lambda fragment="": Reader(browse(file.as_uri() + fragment))


def visible_cards(read: Reader) -> list[int]:
    return [int(card["attributes"]["data-index"]) for card in read.cards if "hidden" not in card["attributes"]]


def test_a_browser_shows_the_rows_that_were_handed_in(opened):
    read = opened()
    assert visible_cards(read) == [f.index for f in PAGE.features]
    for card, made in zip(read.cards, PAGE.features, strict=True):
        expected = [visible(text) for p in made.passages for text, activation in p.tokens if activation > 0]
        assert [text for _, text in card["marks"]] == list(map(unescape, expected))
    assert "".join(read.outputs) == "3 features"


@pytest.mark.parametrize(
    "fragment, shown", [("#q=import", [1]), ("#q=%3Cscript", [2]), ("#q=12", [12]), ("#q=zzz", [])]
)
def test_the_search_box_filters_in_a_browser(opened, fragment, shown):
    read = opened(fragment)
    assert visible_cards(read) == shown
    assert "".join(read.outputs) == f"{len(shown)} of 3 features"


WINDOWS = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [9, 2, 9, 9]], np.int32)
FOUND = Survey(
    peaks=np.array([[3.0, 0.0], [1.0, 2.0], [2.0, 0.0], [0.0, 0.0]]),
    positions=np.array([[1, 0], [2, 1], [1, 0], [0, 0]]),
    density=np.array([0.25, 0.1]),
    mean=np.array([1.0, 5.0]),
)


def test_top_windows_fall_and_leave_out_repeats_and_silence():
    assert top_windows(FOUND, 0, WINDOWS, 4) == [(0, 1), (1, 2)]
    assert top_windows(FOUND, 0, WINDOWS, 1) == [(0, 1)]
    assert top_windows(FOUND, 1, WINDOWS, 4) == [(1, 1)]


def test_survey_takes_each_windows_peak():
    activations = np.zeros((4, 3, 2), np.float32)
    activations[0, 1], activations[2, 2, 1] = (2.0, 1.0), 4.0
    rows = {len(WINDOWS): activations.reshape(-1, 2)}
    found = survey(lambda x: np.maximum(x, 0), lambda windows: rows[len(windows)], WINDOWS)
    np.testing.assert_array_equal(found.peaks, [[2, 1], [0, 0], [0, 4], [0, 0]])
    assert found.positions[0].tolist() == [1, 1] and found.positions[2, 1] == 2
    np.testing.assert_allclose(found.density, [1 / 12, 2 / 12])
    np.testing.assert_allclose(found.mean, [2 / 12, 5 / 12])


def test_a_tokenizer_of_another_model_is_refused():
    def nothing(asked):
        return np.zeros((0, 2))

    with pytest.raises(InvalidConfig, match="tokenizer = 3.*of 5 tokens"):
        describe({}, nothing, nothing, np.eye(2), WINDOWS, FOUND, [], np.zeros((2, 5)), ["a", "b", "c"])


def test_features_are_chosen_for_what_their_group_says():
    found = Survey(
        np.ones((4, 4)), np.ones((4, 4), int), np.array([0.3, 0.2, 0.1, 0.0]), np.array([1.0, 3.0, 2.0, 0.0])
    )
    texts = [str(i) for i in range(10)]
    top = [[(0, 1), (1, 1)], [(0, 1), (3, 1)], [(1, 1)], []]
    chosen = choose_features(found, top, texts, WINDOWS, 1, ("2", "99"), 0)
    groups = {name: feature for feature, names in chosen.items() for name in names}
    assert groups["most active"] == 1 and groups["densest"] == 0
    assert groups["sparsest"] == 1  # of those with two passages
    assert groups["“2”"] == 1  # both of its top tokens
    assert groups["random"] in (0, 1, 2)
    assert "“99”" not in groups


def test_specificity_is_the_share_of_the_most_frequent_top_token():
    top = [[(0, 1), (3, 1), (1, 1)], [(0, 0)]]  # tokens 2, 2, 6; the second has too few passages
    np.testing.assert_allclose(specificity(top, WINDOWS, 3), [2 / 3])


def test_what_is_foretold_is_counted_for_the_own_and_for_another_feature():
    promoted = np.zeros((3, 10), bool)
    promoted[0, 3] = True  # follows both of its peaks
    promoted[2, 7] = True
    own, others = foretold([[(0, 1), (2, 1)], [], [(1, 1), (3, 0)]], WINDOWS, promoted)
    assert own == pytest.approx((1 + 0.5) / 2)
    assert others == 0
