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
# # Without token identities: lexinvariant language models
#
# Huang et al. (2023), arXiv 2305.16349: a language model that sees every text as if in a cipher of its own, drawn anew for each sequence.
# What it can know of a token is what the text has shown. The model that is constructed from a language deciphers the text while reading;
# a model that is trained has to learn that, and one that was trained for minutes has only learned to count.

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
# ## The exact answer
#
# For a Markov source of few symbols the lexinvariant model can be computed: a mixture over all keys of a substitution cipher. Reading, it
# converges to the source, and the total price of not knowing the key is at most ln d! nats.

# %%
import jax
import jax.numpy as jnp

from lexinv.data.markov_first_order import dirichlet_source, predictions, sample_tokens
from lexinv.lexinvariance.bayes import bayes_decipher, regret_bound

source = dirichlet_source(jax.random.key(0), 5, 0.3)
tokens = sample_tokens(jax.random.key(1), source, 200)
deciphered = bayes_decipher(source, tokens)
price = jnp.take_along_axis(predictions(source, tokens) - deciphered.log_probs, tokens[:, None], axis=1)[:, 0]
print(f"not to know the key costs {price[:20].sum():.2f} nats in the first 20 symbols, {price.sum():.2f} in 200,")
print(f"and no text could make it cost more than {regret_bound(5, 5):.2f}")

# %% [markdown]
# ## Figure and claims

# %%
found = reproduce("lexinvariance/bayes_regret", PRESET)
print("\n".join(found.claims))
found.figure

# %% [markdown]
# The same construction on real text, with an n-gram model as the language and a particle filter over keys, is
# `lexinvariance/construction` (ten minutes on two CPU cores); trained models, each beside its untrained state and a counter, are
# `lexinvariance/perplexity` (`quick` takes minutes):
#
#     reproduce("lexinvariance/construction", "cpu")
#     reproduce("lexinvariance/perplexity", "quick")

# %% [markdown]
# ## Exercise
#
# Give the source a concentration of 30, so that its rows are nearly alike. How long does the exact model now need to find the key, and why?
