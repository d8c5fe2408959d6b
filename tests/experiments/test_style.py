import numpy as np
import pytest

from experiments.harness.intervals import interval
from experiments.harness.style import PALETTE, band, panels


def test_band_draws_mean_and_interval():
    values = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 9.0]])
    _, (axes,) = panels()
    band(axes, [10, 20], values, "label", PALETTE[0])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [2.0, 5.0])
    drawn = axes.collections[0].get_paths()[0].vertices[:, 1]
    expected = [interval(values[:, 0]), interval(values[:, 1])]
    assert min(drawn) == pytest.approx(min(i.low for i in expected))
    assert max(drawn) == pytest.approx(max(i.high for i in expected))
    band(axes, [10, 20], values[:1], "one seed", PALETTE[0])
    assert len(axes.lines) == 2 and len(axes.collections) == 1
