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
# TopK, Mutual Choice, Feature Choice and their relatives (Gao et al. 2024; Ayonrinde 2024) on activations whose features are known.

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
PRESET = os.environ.get("LEXINV_PRESET", "smoke")  # smoke: seconds; cpu: the committed record
print(RUNTIME)

# %% [markdown]
# ## Activations with known features
#
# Each token is a sum of few directions, with coefficients that are known too: what an autoencoder finds can be compared with the truth.

# %%
import jax
import numpy as np

from lexinv.sae.synthetic import SyntheticConfig, make_dictionary, sample_tokens

config = SyntheticConfig()
dictionary = make_dictionary(config, jax.random.key(0))
tokens = sample_tokens(config, dictionary, 512, jax.random.key(1))
print([f"{field}: {np.shape(value)}" for field, value in tokens._asdict().items()])

# %% [markdown]
# ## Figure and claims
#
# `PRESET = "cpu"` is the committed record, 15 minutes on two cores.

# %%
found = reproduce("sae/progressive", PRESET)
print("\n".join(found.claims))
found.figure

# %% [markdown]
# ## Exercise
#
# Give `reproduce` a change of the configuration, such as twice the steps, and compare the two figures:
#
#     from dataclasses import replace
#     reproduce("sae/progressive", PRESET, lambda c: replace(c, training=replace(c.training, steps=2 * c.training.steps)))
