"""What the configurations of the ground floors refuse where they are made, by the name of the field."""

from dataclasses import replace

import pytest

from lexinv.data.glyphs import GlyphConfig
from lexinv.data.images import Crop
from lexinv.data.scenes import SceneConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.nn.vision_language import VisionLanguageConfig
from lexinv.nn.vision_transformer import LAYERS, VisionConfig
from lexinv.training.retention import CheckpointConfig
from lexinv.validation import InvalidConfig

DECODER, VISION = TransformerConfig(3, 32, 2, 48), VisionConfig(8, 2, 3, 5)
ANSWERS = VisionLanguageConfig(VISION, DECODER, words=9, answers=6, patch_classes=4)
UNLIKE_MIMETIC = (
    *({"norm": "layer"}, {"bias": True}, {"residual": "sandwich"}, {"rotary_share": 0.5}),
    *({"gate": "silu"}, {"key_heads": 1}),
)
REFUSED = [
    (DECODER, "model.depth", 0),
    (DECODER, "model.heads", 3, {"width": 6, "heads": 2}, {"head_width": 3}),
    (DECODER, "model.head_width", -2),
    (DECODER, "model.key_heads", 3, -1),
    (DECODER, "model.rotary_base", 0.0),
    (DECODER, "model.window_rotary_base", -1.0),
    (DECODER, "model.rotary_divisors", (1.0, 2.0), (0.0,) * 8, {"positions": "none", "rotary_divisors": (1.0,) * 8}),
    (DECODER, "model.global_layers", (0,), {"window": 4, "global_layers": (3,)}),
    (DECODER, "model.window", -1, {"window": 3, "causal": False}),
    (DECODER, "model.output", {"output": "tied", "initialization": "mimetic"}),
    (DECODER, "model.rotary_share", 0.2, 1.5, {"positions": "none", "rotary_share": 0.5}),
    (DECODER, "model.norm_epsilon", 0.0, {"norm": "layer", "norm_epsilon": 0.0}),
    (DECODER, "model.initialization", "suffix_match", *({"initialization": "mimetic"} | one for one in UNLIKE_MIMETIC)),
    (VISION, "model.size", 9),
    (VISION, "model.classes", -1),
    (VISION, "model.registers", -1),
    (VISION, "model.pool", {"cls": False}),
    (VISION, "model.layers.causal", {"layers": replace(LAYERS, causal=True)}),
    (VISION, "model.layers.norm", {"layers": replace(LAYERS, norm="rms")}),
    (ANSWERS, "model.words", 0),
    (ANSWERS, "model.answers", 0),
    (ANSWERS, "model.patch_classes", -1),
    (ANSWERS, "model.vision.cls", {"vision": replace(VISION, cls=False, pool="mean")}),
    (ANSWERS, "model.decoder.causal", {"decoder": replace(DECODER, causal=False)}),
    (ANSWERS, "model.decoder.positions", {"decoder": replace(DECODER, positions="learned")}),
    (ANSWERS, "model.decoder.window", {"decoder": replace(DECODER, window=3)}),
    (GlyphConfig(), "data.size", 30, 20, {"cell": 2}),
    (GlyphConfig(), "data.cell", 0),
    (GlyphConfig(), "data.patch", 0),
    (GlyphConfig(), "data.classes", 1, 32),
    (GlyphConfig(), "data.noise", -0.1),
    (SceneConfig(), "data.grid", 7),
    (SceneConfig(), "data.patch", 6),
    (SceneConfig(), "data.sizes", (), (4, 1, 1, 1, 1)),
    (SceneConfig(), "data.shapes", 7, 17),
    (SceneConfig(), "data.colours", 5),
    (SceneConfig(), "data.noise", -0.1),
    (Crop(), "crop.size", 0),
    (Crop(), "crop.share", 0.0, 1.5),
    (Crop(), "crop.std", (1.0, 0.0, 1.0)),
    (CheckpointConfig(), "checkpoints.seconds", -1.0),
    (CheckpointConfig(), "checkpoints.steps", 0),
    (CheckpointConfig(), "checkpoints.keep", 0),
    (CheckpointConfig(), "checkpoints.keep_minutes", 0.0),
]
"""A configuration, a field, and what is refused for it: values of it, or changes of several fields."""


@pytest.mark.parametrize(
    "config, field, bad", [(config, field, bad) for config, field, *values in REFUSED for bad in values]
)
def test_what_cannot_be_is_refused_by_name(config, field, bad):
    with pytest.raises(InvalidConfig) as error:
        replace(config, **(bad if isinstance(bad, dict) else {field.split(".")[-1]: bad}))
    assert error.value.field == field
