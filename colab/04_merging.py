# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many tokens are needed: merging and pruning
#
# ToMe (Bolya et al. 2023), PiToMe (Tran et al. 2024) and their relatives, all as one `Plan`: which token goes where, and with what weight.

# %%
# lexinv comes from a checkout that is here: cloned, unpacked after an upload, or on a mounted Drive. Otherwise write the address of its git
# repository, or a folder, into this field. What Colab has of JAX stays as it is.
SOURCE = ""  # @param {"type":"string"}

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path


def checkout() -> Path:
    """The folder of lexinv: the one that SOURCE names, cloned if that is an address, or one in or around this folder or on a Drive."""
    here = Path.cwd()
    if SOURCE and not Path(SOURCE).is_dir():
        if not (here / "lexinv/experiments").is_dir():
            address = SOURCE.removeprefix("git+")
            subprocess.run(["git", "clone", "--quiet", "--depth=1", address, here / "lexinv"], check=True)
        return here / "lexinv"
    around = [here, *here.parents, *here.glob("*"), *Path("/content/drive").glob("*/*")]
    for folder in [Path(SOURCE)] if SOURCE else around:
        if (folder / "experiments/harness/notebook.py").is_file():
            return folder.resolve()
    place = SOURCE or f"{here}, the folders in and around it, or a Drive mounted at /content/drive"
    raise FileNotFoundError(f"no checkout of lexinv in {place}: clone or upload one, or write its address into SOURCE")


installed = any(importlib.metadata.distributions(name="lexinv"))  # with what it needs
if not installed or importlib.util.find_spec("experiments") is None:
    found = checkout()
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", found], check=True)
    sys.path.insert(0, str(found))
    print(f"lexinv is that of {found}")

# %%
# %matplotlib inline
import os

from experiments.harness.notebook import prepare, reproduce

RUNTIME = prepare()
PRESET = os.environ.get("LEXINV_PRESET", "cpu")  # smoke: seconds; cpu: the committed record
print(RUNTIME)

# %% [markdown]
# ## A plan
#
# Sixteen tokens in three clusters. The plan says into which target each goes; `sources` tracks them.

# %%
import jax
import jax.numpy as jnp

from lexinv.merging.bipartite import bipartite_matching, cosine_similarity
from lexinv.merging.energy import energies, energy_matching
from lexinv.merging.plan import merge, sources
from lexinv.merging.spectral import spectral_distance, token_graph

centres = jax.random.normal(jax.random.key(0), (3, 8))
clusters = jnp.array([0] * 10 + [1] * 4 + [2] * 2)
tokens = centres[clusters] + 0.05 * jax.random.normal(jax.random.key(1), (16, 8))
similarity = cosine_similarity(tokens)
plans = {
    "ToMe": bipartite_matching(similarity, 5, protect=0),
    "PiToMe": energy_matching(similarity, energies(similarity, margin=0.5), 5, protect=0),
}
for name, plan in plans.items():
    merged, sizes = merge(plan, tokens)
    distance = spectral_distance(token_graph(tokens), plan.assign, len(sizes))
    print(name, "sizes", sizes, "spectral distance", float(distance))
print(sources(plans["ToMe"]).astype(int))

# %% [markdown]
# ## A real model
#
# `apply` puts a method by its name into a Vision Transformer or a text encoder that is already trained: here into DINOv2-S, a wheel of
# 90 MB from the package index whose hash is pinned. Every layer keeps 0.9 of its patches; the picture shows what merged. At smoke size a
# tiny untrained model stands in.

# %%
import matplotlib.pyplot as plt
import numpy as np

from experiments.subjects.pretrained_vision import cuts, displayed, photographs, untrained
from lexinv.data.assets import fetch
from lexinv.merging.methods import apply
from lexinv.merging.picture import group_picture
from lexinv.merging.plan import composed
from lexinv.nn.dinov2 import load_dinov2

if PRESET == "smoke":
    model, params = untrained(112).model, untrained(112).params
else:
    model, params = load_dinov2(fetch("dinov2_small") / "vit_s_focus.onnx")
images, _ = cuts(list(photographs().values()), 1, model.size, seed=0)
encode = apply(model, params, "pitome", 0.9)
encoded = encode(images)  # .tokens, CLS first, and .sizes
groups = np.asarray(composed(encoded.handed_on).assign)[:, 1:] - 1
for column, (image, group) in enumerate(zip(images[:3], groups, strict=False)):
    plt.subplot(1, 3, column + 1).imshow(group_picture(displayed(image, model.patches), group))

# %% [markdown]
# ## Figure and claims

# %%
found = reproduce("merging/off_the_shelf", PRESET)
print("\n".join(found.claims))
found.figure

# %% [markdown]
# ## Exercise
#
# Put the largest cluster on every second place, as the parity layout does. Which of the two plans merges across clusters now?
