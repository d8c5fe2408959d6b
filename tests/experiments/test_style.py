import io

import numpy as np
import pytest

from experiments.harness.intervals import interval
from experiments.harness.style import PALETTE, band, panels, reference


def luminance(color):
    """Relative luminance of a colour (WCAG 2)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_band_draws_mean_and_interval():
    values = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 9.0]])
    _, (axes,) = panels()
    band(axes, [10, 20], values, "label", PALETTE[0])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [2.0, 5.0])
    drawn = axes.collections[0].get_paths()[0].vertices[:, 1]
    expected = [interval(values[:, 0]), interval(values[:, 1])]
    assert min(drawn) == pytest.approx(min(i.low for i in expected))
    assert max(drawn) == pytest.approx(max(i.high for i in expected))


def test_one_seed_has_no_band():
    _, (axes,) = panels()
    band(axes, [1, 2], [[3.0, 4.0]], "label", PALETTE[0])
    assert len(axes.collections) == 0


def test_panels_are_styled_without_touching_the_process():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure, axes = panels(2, 3)
    reference(axes[0], 1.0, "bound")
    figure.savefig(io.BytesIO())
    assert len(axes) == 6
    assert not axes[0].spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before


def test_the_first_colours_differ_in_luminance():
    # Told apart in print without colour: the two that most figures use.
    assert abs(luminance(PALETTE[0]) - luminance(PALETTE[1])) > 0.05
