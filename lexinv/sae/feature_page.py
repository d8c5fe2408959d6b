"""One static HTML page about features of a sparse autoencoder: no network, nothing but what is handed to `render`.

`lexinv.sae.feature_survey` fills it from an autoencoder and a language model.
"""

import math
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple


class Token(NamedTuple):
    """A token's text and the feature's activation on it, 0 where it does not fire."""

    text: str
    activation: float


class Passage(NamedTuple):
    """A piece of text around a peak: `tokens[peak]` has the largest activation of its window."""

    tokens: tuple[Token, ...]
    peak: int


class Feature(NamedTuple):
    """What the page says of one feature.

    groups: why it is on the page. density: share of the tokens on which it fires; rank: its place by density, from 1. peak: its largest
    activation. histogram: counts of its positive activations in equal bins from 0 to `peak`. promoted, suppressed: tokens with their change
    of the logit for a unit of activation. neighbours: other features with the cosines of their decoder rows to this one's.
    """

    index: int
    groups: tuple[str, ...]
    density: float
    rank: int
    peak: float
    histogram: tuple[int, ...]
    passages: tuple[Passage, ...]
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    neighbours: tuple[tuple[int, float], ...]


class Page(NamedTuple):
    """title, a sentence below it, facts (name, value), and the features in the order of the page."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    features: tuple[Feature, ...]


def render(page: Page) -> str:
    """The page as HTML. All text is escaped; a policy in the page forbids every request.

    A search box keeps the features with a peak token that contains what is typed (in either case), or with that number; `#q=TEXT` in the
    address does the same. `#feature-N` goes to one.
    """
    groups = list(dict.fromkeys(group for feature in page.features for group in feature.groups))
    counts = {group: sum(group in feature.groups for feature in page.features) for group in groups}
    chips = "".join(
        f'<button type="button" class="chip" data-group="{number}" aria-pressed="false">{escape(group)} '
        f"<small>{counts[group]}</small></button>"
        for number, group in enumerate(groups)
    )
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in page.facts)
    shown = {feature.index for feature in page.features}
    cards = "\n".join(_card(feature, groups, shown) for feature in page.features)
    return Template(_file("html")).substitute(
        title=escape(page.title),
        subtitle=escape(page.subtitle),
        facts=facts,
        chips=chips,
        cards=cards,
        count=len(page.features),
        style=_file("css"),
        script=_file("js"),
    )


def neuronpedia(page: Page, model_id: str, layer: int, sae_set: str) -> dict[str, Any]:
    """The page's features as JSON with the names of SAEDashboard's files for Neuronpedia, as far as a page knows what they ask for.

    Bars of a histogram stand at the middles of their bins. Nearest directions are given as correlated features, with their cosines.
    """
    return {
        "model_id": model_id,
        "layer": layer,
        "sae_set": sae_set,
        "features": [_entry(one) for one in page.features],
    }


def _entry(feature: Feature) -> dict[str, Any]:
    bins = len(feature.histogram)
    top = {"bin_min": -1, "bin_max": feature.peak, "bin_contains": -1}  # as there for the largest activations
    return {
        "feature_index": feature.index,
        "correlated_features_indices": [index for index, _ in feature.neighbours],
        "correlated_features_pearson": [cosine for _, cosine in feature.neighbours],
        **{
            f"{sign}_{part}": [effect[place] for effect in effects]
            for sign, effects in (("pos", feature.promoted), ("neg", feature.suppressed))
            for place, part in enumerate(("str", "values"))
        },
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_values": [feature.peak * (place + 0.5) / bins for place in range(bins)],
        "freq_hist_data_bar_heights": list(feature.histogram),
        "activations": [
            {
                **top,
                "tokens": [token.text for token in passage.tokens],
                "values": [token.activation for token in passage.tokens],
                "qualifying_token_index": passage.peak,
            }
            for passage in feature.passages
        ],
    }


def _file(kind: str) -> str:
    """The page's own skeleton, style sheet or script, which lie beside this file and are put into the page."""
    return files("lexinv.sae").joinpath(f"feature_page.{kind}").read_text(encoding="utf-8")


def one_in(density: float) -> str:
    """A density in words: `1 in 250 tokens`, or a percentage where that is above a tenth."""
    if density >= 0.1:
        return f"{density:.0%} of tokens"
    return f"1 in {round(1 / density):,} tokens" if density > 0 else "never"


def visible(text: str) -> str:
    """A token's text, escaped, with line breaks and tabs made visible, and three spaces or more as their number."""
    text = text.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥")
    return escape(re.sub(" {3,}", lambda run: f"␣{len(run[0])}", text))


def _attribute(text: str) -> str:
    """Escaped for an attribute in double quotes; a parser must not fold its line breaks."""
    return escape(text, quote=True).replace("\n", "&#10;").replace("\r", "&#13;")


def _card(feature: Feature, groups: list[str], shown: set[int]) -> str:
    peaks = "\n".join(dict.fromkeys(passage.tokens[passage.peak].text for passage in feature.passages))
    badges = "".join(f'<span class="badge">{escape(group)}</span>' for group in feature.groups)
    numbers = " ".join(str(groups.index(group)) for group in feature.groups)
    passages = "".join(_passage(passage, feature.peak) for passage in feature.passages)
    return f"""<article class="feature" id="feature-{feature.index}" data-index="{feature.index}" data-density="{feature.density:.8g}"
 data-peak="{feature.peak:.6g}" data-groups="{numbers}" data-tokens="{_attribute(peaks)}">
<div class="side">
<h2><a href="#feature-{feature.index}">Feature {feature.index}</a></h2>
<div class="badges">{badges}</div>
<p class="density"><b>{one_in(feature.density)}</b> · rank {feature.rank:,} · peak {feature.peak:.2f}</p>
{_density_bar(feature.density)}
{_histogram(feature.histogram)}
<div class="logits">{_effects("raises", feature.promoted)}{_effects("lowers", feature.suppressed)}</div>
<p class="neighbours"><span>nearest directions</span>{_neighbours(feature.neighbours, shown)}</p>
</div>
<ol class="passages">{passages}</ol>
</article>"""


def _passage(passage: Passage, largest: float) -> str:
    pieces = []
    for place, (text, activation) in enumerate(passage.tokens):
        if activation <= 0:
            pieces.append(visible(text))
            continue
        opacity = min(max(activation / largest, 0.08), 1.0) if largest > 0 else 0.0
        kind = "on peak" if place == passage.peak else "on"
        pieces.append(f'<mark class="{kind}" style="--a:{opacity:.2f}" title="{activation:.2f}">{visible(text)}</mark>')
    value = passage.tokens[passage.peak].activation
    return f'<li><span class="value">{value:.1f}</span><span class="text">{"".join(pieces)}</span></li>'


def _effects(name: str, effects: Sequence[tuple[str, float]]) -> str:
    rows = "".join(f"<li><code>{visible(text) or '∅'}</code><i>{value:+.2f}</i></li>" for text, value in effects)
    return f'<div class="{name}"><span>{name}</span><ol>{rows}</ol></div>'


def _neighbours(neighbours: Sequence[tuple[int, float]], shown: set[int]) -> str:
    links = []
    for index, cosine in neighbours:
        text = f"{index} <i>{cosine:+.2f}</i>"
        links.append(
            f'<a href="#feature-{index}">{text}</a>' if index in shown else f"<span class='other'>{text}</span>"
        )
    return "".join(links)


def _density_bar(density: float) -> str:
    """A bar on a logarithmic scale from 10^-5 to 1."""
    share = min(max(1 + math.log10(density) / 5, 0.0), 1.0) if density > 0 else 0.0
    return (
        f'<div class="bar" title="density, logarithmic from 0.00001 to 1"><div style="width:{share:.1%}"></div></div>'
    )


def _histogram(counts: Sequence[int]) -> str:
    """Square roots of the counts, so that the few large activations are seen beside the many small ones."""
    most = math.sqrt(max(counts, default=0)) or 1.0
    width = 240 / max(len(counts), 1)
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{36 - 34 * math.sqrt(count) / most:.1f}" width="{width - 1:.1f}" '
        f'height="{34 * math.sqrt(count) / most:.1f}"/>'
        for place, count in enumerate(counts)
        if count
    )
    return (
        f'<svg class="histogram" viewBox="0 0 240 37" role="img" aria-label="histogram of positive activations">'
        f'<title>positive activations, from 0 to the peak (square-root scale)</title>{bars}<path d="M0 36.5H240"/></svg>'
    )
