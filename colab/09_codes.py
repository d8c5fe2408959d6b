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
# # Tokens that are not text
#
# A picture becomes tokens by a quantiser: of an autoencoder's latents, one for each patch. Wang et al. (2025), arXiv 2503.16430, quantise
# each dimension after training; Liu et al. (2025), arXiv 2410.16257, learn bits.

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
# ## Levels of a normal
#
# 64 levels of each dimension, fixed before anything is seen. What they cost of a standard normal is known exactly: squared error, bits.

# %%
from lexinv.codes.quantisers import bernoulli, fsq, gaussian_distortion, gaussian_levels, joined, scalar

for reach in (3, 4, 5):
    levels = gaussian_levels(64, reach)
    print("range", reach, "outermost", levels[-1], "error and bits", gaussian_distortion(levels))

# %% [markdown]
# ## One signature
#
# Every quantiser gives values, sub-codes, a loss for each position and its next state. Gradients pass straight through.

# %%
import jax

z = jax.random.normal(jax.random.key(0), (1000, 4))
for name, quantiser in {"scalar": scalar(4, levels), "FSQ": fsq((4, 4, 4, 4)), "bits": bernoulli(4, 4)}.items():
    found = quantiser.quantize(*quantiser.start(jax.random.key(1)), z, None)
    print(name, "codes", joined(found.ids, quantiser.sizes)[:5], "of", quantiser.bits, "bits")

# %% [markdown]
# ## Figure and claims

# %%
reproduced = reproduce("codes/quantisers", PRESET)
print("\n".join(reproduced.claims))
reproduced.figure

# %% [markdown]
# ## Exercise
#
# 1. Which range is best with 8 levels? Why is it not that of 64?
# 2. A latent's dimension is constant but for noise. What do 64 levels spend on it, and what does the picture lose without it?
