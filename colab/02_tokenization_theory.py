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
# # How tokens are made: tokenization on Markov sources
#
# Rajaraman, Jiao and Ramchandran (2024), arXiv 2404.08335: over characters a small Transformer stays at the stationary distribution of a
# Markov source; over tokens even a unigram model comes near the entropy rate.

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
# ## A dictionary and what it is worth
#
# Loss of the best unigram model over LZW and BPE tokens in nats per character, by size of the dictionary; exact, not sampled.

# %%
import jax

from lexinv.tokenization.sources import entropy_rate, random_kernel, stationary_text, symbol_distribution
from lexinv.tokenization.tokenizers import to_text, train_bpe, train_lzw, with_encoder
from lexinv.tokenization.unigram import asymptotic_cross_entropy

kernel = random_kernel(jax.random.key(0), order=2, symbols=3)
text = to_text(stationary_text(jax.random.key(1), kernel, 50_000), "abc")
print("entropy rate", entropy_rate(kernel), "symbols", symbol_distribution(kernel))
for size in (8, 32, 128):
    trained = [with_encoder(train(text, size, "abc"), "greedy") for train in (train_lzw, train_bpe)]
    losses = [asymptotic_cross_entropy(tokenizer, kernel) for tokenizer in trained]
    print(size, *(f"{loss:.3f}" for loss in losses))

# %% [markdown]
# ## Figure and claims

# %%
found = reproduce("tokenization/landscape", PRESET)
print("\n".join(found.claims))
found.figure

# %% [markdown]
# ## Exercise
#
# Train the tokenizer on the text of another source (another key), and judge it on this one. Compare with `tokenization/generalization`.
