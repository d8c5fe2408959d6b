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
# # lexinv: what is a token?
#
# A library of small, pure-functional JAX implementations of published systems, each with a reproduction that judges the paper's claims on
# the numbers it measured, also when they do not hold. This notebook makes one figure, in about two minutes on two CPU cores.

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
# ## Functions of arrays
#
# A Markov source, a tokenizer trained on its text, and the loss of the best unigram model over the tokens: between the entropy rate and
# the bound of Rajaraman et al. (2024), in nats per character.

# %%
import jax

from lexinv.data.markov import entropy_rate, smallest_probability, switching_kernel
from lexinv.data.markov_sampling import stationary_text
from lexinv.tokenization.bounds import lzw_bound
from lexinv.tokenization.tokenizers import to_text, train_lzw
from lexinv.tokenization.unigram import asymptotic_cross_entropy

kernel = switching_kernel(order=1, p=0.9, q=0.9)
text = to_text(stationary_text(jax.random.key(0), kernel, 100_000), "01")
tokenizer = train_lzw(text, size=256, alphabet="01")
rate = entropy_rate(kernel)
print(rate, asymptotic_cross_entropy(tokenizer, kernel), lzw_bound(rate, smallest_probability(kernel), 256))

# %% [markdown]
# ## A figure and its claims
#
# The same as `python -m experiments run tokenization/unigram_loss cpu`. Run the cell again, and the finished run is read.

# %%
found = reproduce("tokenization/unigram_loss", PRESET)
print("\n".join(found.claims))
found.figure

# %% [markdown]
# ## To cite

# %%
from experiments.harness.report import citation

print(citation("tokenization/unigram_loss", "cpu"))

# %% [markdown]
# ## Exercise
#
# With `p` and `q` at 0.5 the source has no memory. What is left for a tokenizer to gain? Try it, and then 0.99.
