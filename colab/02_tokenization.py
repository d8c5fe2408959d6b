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
# ## A dictionary and what it is worth
#
# Loss of the best unigram model over LZW and BPE tokens in nats per character, by size of the dictionary; exact, not sampled.

# %%
import jax

from lexinv.data.markov import entropy_rate, random_kernel, symbol_distribution
from lexinv.data.markov_sampling import stationary_text
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
