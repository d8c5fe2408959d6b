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
# # What is inside a token: sparse autoencoders
#
# An autoencoder of a real language model's residual stream (Mutual Choice, Ayonrinde 2024), as a directory that SAELens reads, and a page
# of its features.

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
PRESET = os.environ.get("LEXINV_PRESET", "cpu")  # smoke: seconds, a tiny untrained model; cpu: minutes, SmolLM2-135M
print(RUNTIME)

# %% [markdown]
# ## Train
#
# SmolLM2, a wheel from the package index whose hash is pinned, reads the standard library, its documentation and the King James Bible;
# the autoencoder learns from what its tenth layer hands on. One seed and one sparsity; the committed record has three of each.

# %%
from dataclasses import replace

from experiments.harness.registry import load
from experiments.harness.workspace import open_workspace
from experiments.subjects.activation_autoencoders import judge, train_variant
from experiments.subjects.language_subjects import open_language_model


def one_of_each(config):
    autoencoders = config.autoencoders
    single = replace(autoencoders, curve=(1.0,), training=replace(autoencoders.training, seeds=(0,)))
    return replace(config, autoencoders=single)


config = one_of_each(load("sae/dashboard").PRESETS[PRESET])
workspace = open_workspace(Path("runs/notebook", PRESET), "notebook", PRESET, config)
subject = open_language_model(config.subject, config.autoencoders.tokens, 1, workspace)
((autoencoder,),) = train_variant("mutual", config.autoencoders, subject, workspace)
scores = judge(autoencoder, subject.held_out[0], config.autoencoders.training.batch)
print({name: scores[name] for name in ("l0", "fvu", "alpha")})

# %% [markdown]
# ## Export
#
# The scale of training is folded into the weights, so that what SAELens loads (`SAE.load_from_disk`) reads the model's own activations.

# %%
from tempfile import mkdtemp

from lexinv.sae.interchange import load_saelens, save_saelens

folder = Path(mkdtemp())
metadata = {"model_name": config.subject.name, "hook_name": f"blocks.{config.subject.layer}.hook_resid_post"}
trained = autoencoder.config, autoencoder.state.params, autoencoder.threshold
save_saelens(folder, *trained, scale=autoencoder.scale, metadata=metadata)
print(folder, load_saelens(folder).metadata)

# %% [markdown]
# ## Its page, figure and claims
#
# Of each feature the passages that activate it most, and what it does to the next token; the search box looks for texts.

# %%
from html import escape

from IPython.display import HTML

found = reproduce("sae/dashboard", PRESET, one_of_each)
print("\n".join(found.claims))
page = escape((found.folder / found.results["page"]).read_text())
HTML(f'<iframe srcdoc="{page}" width="100%" height="600"></iframe>')

# %%
found.figure

# %% [markdown]
# ## Exercise
#
# Twice the latents: `replace(autoencoders, features=2 * autoencoders.features, ...)` in `one_of_each`. Which features have split?
