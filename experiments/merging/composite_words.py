"""Words of an object as one token: are its colours then drawn where it is, in pairs that the model has never seen together?

Hu et al. 2024 (ToMe for text-to-image synthesis, arXiv 2411.07132); method card semantic-binding-token-merging. Two objects, small models
that draw them from a caption, an exact reader. The paper's tables were not at hand: no value of its is quoted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.harness.arms import Arms, measured
from experiments.harness.figures import dots
from experiments.harness.presets import presets
from experiments.harness.style import panels
from experiments.harness.training import initial
from experiments.harness.verdicts import OURS, Claim, above, below
from experiments.harness.workspace import Workspace
from experiments.subjects.captions import read, sample_captions, shows
from experiments.subjects.prompted_pictures import Change, Drawing, PictureModels, draw, picture_models, presence
from lexinv.nn.text_to_image import initialize
from lexinv.training.population import member
from lexinv.validation import Checked, Count

PAPERS = ("hu2024token",)
CHANGES = {
    "plain": Change(),
    "merge": Change("merged"),
    "ends": Change("merged", ends=True),
    "entropy": Change("merged", entropy=True),
    "binding": Change("merged", binding=True),
    "all": Change("merged", ends=True, entropy=True, binding=True),
    "masked": Change("merged", masked=True),
    "wrong": Change("wrong"),
    "added": Change("added"),
    "excitation": Change(excitation=True),
}
LABELS = {
    "untrained": "untrained",
    "seen": "plain, pairs of training",
    "plain": "plain",
    "merge": "merged",
    "ends": "merged, other ends",
    "entropy": "merged, entropy",
    "binding": "merged, binding",
    "all": "all of these",
    "masked": "merged, zeros masked",
    "wrong": "wrong pairs merged",
    "added": "colour added to a noun",
    "excitation": "Attend-and-Excite",
}
PARTS = ("plain", "merge", "ends", "entropy", "binding")


@dataclass(frozen=True)
class Config(Checked):
    """prompts: for each seed, of pairs that training does not have.

    Models learn from captions of which a fifth have their colours exchanged: with true captions alone they bind new pairs, too.
    """

    models: PictureModels = PictureModels()
    drawing: Drawing = Drawing()
    prompts: Count = 500


PRESETS = presets(
    Config(),
    smoke={
        "models.training.steps": 20,
        "models.training.seeds": (0, 1),
        "models.training.batch_size": 8,
        "models.training.optimizer.warmup_steps": 2,
        "drawing.steps": 3,
        "drawing.refined": 1,
        "drawing.descents": 1,
        "prompts": 4,
    },
    paper={
        "models.training.steps": 200_000,
        "models.training.batch_size": 512,
        "drawing.steps": 50,
        "drawing.guidance": 7.5,
        "drawing.refined": 7,
        "prompts": 5000,
    },
)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    """By arm and seed the shares of pictures with both objects in their colours, and with both shapes; the attention that zeros take."""
    seeds, model = config.models.training.seeds, config.models.model
    models = picture_models(config.models, workspace)
    begun = initial(lambda key: initialize(model, key), seeds)

    def measure(arm: str, seed: int) -> dict[str, float]:
        place, change = seeds.index(seed), CHANGES.get(arm, Change())
        prompts, noise = jax.random.split(jax.random.key(seed))
        asked = sample_captions(prompts, config.prompts, unnamed=0.0, held_out=arm != "seen")
        params = member(begun, place) if arm == "untrained" else models[place]
        drawn = draw(model, params, asked.caption, noise, config.drawing, change)
        codes, shape, colour = (np.asarray(part) for part in (drawn.codes, asked.shape, asked.colour))
        return {
            "bound": float(shows(codes, shape, colour).mean()),
            "present": float(presence(read(codes)[0], shape).mean()),
            "zeros": float(jnp.mean(drawn.zeros)),
        }

    return {"seeds": seeds, "arms": measured(workspace, ("untrained", "seen", *CHANGES), seeds, measure)}


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What the paper says of each part, and whether there was anything to bind."""
    arms, paper = Arms(results), "hu2024token"
    bound = {arm: arms[arm, "bound"] for arm in CHANGES}
    return [
        Claim(
            "plain_misbinds",
            "The model draws the shapes that it is asked for, but often in each other's colours, where pairs are new.",
            OURS,
            {"both shapes": arms["plain", "present"], "both in their colours": bound["plain"]},
            {"both shapes": above(0.9), "both in their colours": below(0.8)},
            "share of pictures",
        ),
        Claim(
            "merging_binds",
            "With the words of an object as one token more pictures have both objects in their colours.",
            f"{paper}: abstract",
            {"more": bound["merge"] - bound["plain"]},
            above(0.05),
            "share of pictures",
        ),
        Claim(
            "end_tokens_leak",
            "So do end tokens that have not read the attributes.",
            f"{paper}: end token substitution",
            {"more": bound["ends"] - bound["merge"]},
            above(0),
            "share of pictures",
        ),
        Claim(
            "all_best",
            "All parts together bind more than any less of them.",
            f"{paper}: ablation",
            {"more": bound["all"] - np.max([bound[arm] for arm in PARTS], axis=0)},
            above(0),
            "share of pictures",
        ),
        Claim(
            "wrong_pairs_hurt",
            "Merging each noun with the other one's colour binds less than no merging.",
            OURS,
            {"more": bound["wrong"] - bound["plain"]},
            below(0),
            "share of pictures",
        ),
        Claim(
            "embeddings_add",
            "A noun that was encoded without a colour, plus the embedding of one, is drawn in that colour.",
            f"{paper}: semantic additivity",
            {"both objects": bound["added"]},
            above(0.8),
            "share of pictures",
        ),
        Claim(
            "zeros_take_attention",
            "The zeros that merging leaves take attention.",
            OURS,
            {"share": arms["merge", "zeros"]},
            above(0.02),
            "share of attention",
        ),
    ]


def figure(results: Mapping[str, Any]) -> Figure:
    """By arm, the shares of pictures with both objects in their colours, and with both shapes."""
    arms = Arms(results)
    drawn, axes = panels(1, 2, width=4.6, height=3.8, titles=("both objects in their colours", "both shapes"))
    for panel, metric in zip(axes, ("bound", "present"), strict=True):
        dots(panel, {label: arms[arm, metric] for arm, label in LABELS.items()})
        panel.set(xlabel="share of pictures", xlim=(-0.02, 1.02))
    axes[1].set_yticklabels([])
    return drawn
