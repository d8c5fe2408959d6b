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
# Huang et al. (2023), arXiv 2305.16349: a language model that sees every text as if in a cipher of its own, drawn anew for each sequence,
# and deciphers it while reading.

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

from lexinv.lexinvariance.bayes import bayes_decipher, regret_bound
from lexinv.lexinvariance.markov import dirichlet_source, predictions, sample_tokens

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
# The trained models are `lexinvariance/perplexity` (an hour on two CPU cores, minutes on a TPU; `quick` takes 15 minutes):
#
#     reproduce("lexinvariance/perplexity", "quick")

# %% [markdown]
# ## Exercise
#
# Give the source a concentration of 30, so that its rows are nearly alike. How long does the exact model now need to find the key, and why?
