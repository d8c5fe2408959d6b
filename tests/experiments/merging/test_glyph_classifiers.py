"""What the small Vision Transformers are trained on."""

from dataclasses import replace

import pytest

from experiments.subjects.glyph_classifiers import GLYPHS, VisionSubject
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.validation import InvalidConfig


@pytest.mark.parametrize(
    "field, model", [("model", VisionConfig(classes=12)), ("model.patch", replace(GLYPHS.model, patch=8))]
)
def test_a_model_that_does_not_fit_the_data_is_refused(field, model):
    with pytest.raises(InvalidConfig, match=rf"^{field} = "):
        VisionSubject(model=model)
