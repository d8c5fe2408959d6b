"""Conditions on several fields of a configuration; what one field allows is tested for all experiments (`test_contract`)."""

import importlib
from dataclasses import replace

import pytest

from experiments.subjects.crop_answerers import CropSubject
from experiments.subjects.font_characters import CHARACTERS, CharacterSubject
from experiments.subjects.glyph_classifiers import GLYPHS, VisionSubject
from experiments.subjects.published_classifiers import PublishedModel
from experiments.subjects.scene_answerers import SceneSubject
from lexinv.nn.vision_transformer import VisionConfig
from lexinv.validation import InvalidConfig

ANSWERERS, CROPS = SceneSubject(), CropSubject().scenes
OTHER_SEEDS = replace(GLYPHS, training=replace(GLYPHS.training, seeds=(5, 6)))


# By experiment and field that is named: its values, or what is changed where another field is at fault.
REFUSED = {
    "off_the_shelf": {
        "methods": [("tome", "pitome")],
        "ratios": [(0.85, 0.9)],
        "picture_ratio": [0.5],
        "cuts": [1],
        "size": [100],
        "published": [
            (PublishedModel("photographs", "weights", 3, images=64),),
            (PublishedModel("DeiT", "weights", 3, images=100),),
        ],
    },
    "retrained": {
        "methods": [("tome",)],
        "images": [100],
        "targets": [(0.1,)],
        "characters.model": [{"characters": replace(CHARACTERS, model=replace(CHARACTERS.model, pool="mean"))}],
        "finetuning.seeds": [{"finetuning": OTHER_SEEDS.training}],
        "learning.seeds": [{"learning": OTHER_SEEDS.training}],
    },
    "zero_tprune": {
        "layers": [(3, 1), (11,), ()],
        "kept_flops": [(0.6, 0.7), (0.9, 0.8, 0.25)],
        "similar": [0.6],
        "size": [100],
    },
    "votes": {"large.training.seeds": [{"large": OTHER_SEEDS}]},
    "selection": {"width": [8], "kept": [1], "chosen": [13]},
    "needles": {"kept": [(0.5, 0.25)], "objects": [(4, 2)], "tokens": [40], "width": [16]},
    "spectral_distance": {
        "tokens": [36],
        "width": [12],
        "noises": [(0.01, 0.1), (0.3, 0.01), (0.1, 0.01, 0.0)],
    },
    "text_encoder": {"window": [8], "pairs": [1], "ratios": [(0.8, 0.9), (0.9, 0.6), (0.8, 0.4)]},
    "crop_budgets": {
        "ratios": [(0.1, 0.5), (0.5, 0.25), (0.1, 0.001)],
        "subject.scenes.depth": [{"subject": CropSubject(scenes=replace(CROPS, depth=1))}],
    },
    "flexible_budgets": {
        "budgets": [(4, 2), (2,)],
        "tested": [(2, 4)],
        "weights": [(1, 1), (0, 0, 0), (-1, 1, 1)],
        "objects": [9],
        "training.seeds": [{"subject": replace(ANSWERERS, training=OTHER_SEEDS.training)}],
    },
    "vlm": {
        "ratios": [(0.1, 0.5), (0.1, 0.001)],
        "subject.depth": [{"subject": SceneSubject(depth=2)}],
        "subject.counts": [{"subject": SceneSubject(counts=0)}],
    },
}
CASES = [
    (name, field, value if isinstance(value, dict) else {field: value})
    for name, fields in REFUSED.items()
    for field, values in fields.items()
    for value in values
]


@pytest.mark.parametrize("name, field, change", CASES)
def test_what_does_not_fit_together_is_refused(name, field, change):
    presets = importlib.import_module(f"experiments.merging.{name}").PRESETS
    with pytest.raises(InvalidConfig) as error:
        replace(presets["cpu"], **change)
    assert error.value.field == field


@pytest.mark.parametrize(
    "field, subject, change",
    [
        ("model", VisionSubject, {"model": VisionConfig(classes=12)}),
        ("model.patch", VisionSubject, {"model": replace(GLYPHS.model, patch=8)}),
        ("model", CharacterSubject, {"model": replace(CHARACTERS.model, channels=3)}),
        ("least", CharacterSubject, {"least": 0.95}),
    ],
)
def test_a_model_that_does_not_fit_its_images_is_refused(field, subject, change):
    with pytest.raises(InvalidConfig, match=rf"^{field} = "):
        subject(**change)
