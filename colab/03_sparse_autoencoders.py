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
# On Colab: upload a wheel of lexinv, or write the address of your copy here (git+https://...). What Colab has of JAX stays as it is.
SOURCE = ""

import importlib.util
import subprocess
import sys

if importlib.util.find_spec("lexinv") is None:
    assert SOURCE, "SOURCE says from where to install lexinv"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", SOURCE], check=True)

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
