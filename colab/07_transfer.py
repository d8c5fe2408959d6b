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
# # One model, other tokens
#
# Our language models take the table of their tokens as an argument, so that another tokenizer is another table. Goddard and Fernandes Neto
# (2025), arXiv 2506.06607, and Sharthak et al. (2025), arXiv 2505.09738, fill the rows of new tokens without training.

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
# ## A model that reads with DeepSeek's tokens
#
# SmolLM2-135M comes in a Python package of 93 MB, DeepSeek's tokenizer in one of 2 MB; the smoke preset takes a tiny model with random
# weights and a tokenizer that is trained here.

# %%
from experiments.subjects.pretrained_language_model import read_pretrained, untrained
from lexinv.data.assets import fetch
from lexinv.data.corpora import load_corpus
from lexinv.data.published_tokenizers import load_published_tokenizer
from lexinv.data.tokenizers import load_tokenizer
from lexinv.transfer.vocabularies import match, segmenter, surface_forms

corpus = load_corpus("python-docs")
world = untrained(corpus) if PRESET == "smoke" else read_pretrained(fetch("smollm2"))
target = load_tokenizer("bpe:300", corpus) if PRESET == "smoke" else load_published_tokenizer("deepseek")
found = match(world.tokenizer, target)
pieces = [target.pieces[number] for number in found.new]
forms = surface_forms(pieces, segmenter(world.tokenizer), 16)
print(f"{len(found.shared)} tokens are shared, {len(found.new)} are new")
print(pieces[10], [world.tokenizer.pieces[number] for number in forms.ids[10][forms.mask[10]]])

# %% [markdown]
# ## Rows for the new tokens
#
# A method gives a combination of the rows that there are; shared rows are copied bit for bit.

# %%
import jax
import numpy as np

from lexinv.data.tokenizers import bits_per_byte
from lexinv.nn.language_model import make_nll
from lexinv.training.evaluation import evaluate_by_position
from lexinv.transfer.methods import Given, transplanted

sizes = np.array([[max(len(piece), 1)] for piece in pieces])
given = Given(found, forms, (world.tokenizer.token_bytes[forms.ids] * forms.mask / sizes).astype(np.float32))
texts = [text[:400] for text in corpus.splits["test"][:4]]
windows = np.full((len(texts), 128), -1, np.int32)  # -1 is padding
for row, text in zip(windows, texts, strict=True):
    tokens = target.encode(text)[:128]
    row[: len(tokens)] = tokens
nll = make_nll(world.model.config, world.model.lexicon, target.vocab_size)
for method, temperature in (("zero", 0.0), ("pieces", 0.0), ("length", 0.3)):
    params = world.model.params | {"table": transplanted(method, given, world.model.params["table"], temperature)}
    nats = evaluate_by_position(nll, params, windows, jax.random.key(0), 2)
    print(f"{method:>8} {bits_per_byte(nats, windows, target):.3f} bits per byte")

# %% [markdown]
# ## Rows from a network
#
# A hypernetwork reads the rows of the pieces that a new token is spelled by (Minixhofer et al. 2024). Ours begins as their mean, so that
# what training finds is seen against the best simple answer: `transfer/hypernetwork`.

# %%
import jax.numpy as jnp

from lexinv.nn.transformer import TransformerConfig
from lexinv.transfer.hypernetwork import HypernetworkConfig, initialize, predict, surface

table = jnp.asarray(world.model.params["table"])
layers = TransformerConfig(depth=1, width=32, heads=2, mlp_width=64, positions="learned", causal=False, max_length=16)
network = HypernetworkConfig(length=16, skip=True, transformer=layers)
few = surface(surface_forms(pieces[:8], segmenter(world.tokenizer), 16))
(made,) = predict(network, initialize(network, jax.random.key(0), (table,), few), few, (table,))
means = np.stack([np.asarray(table)[form[form >= 0]].mean(axis=0) for form in few])
print("untrained rows differ from means of pieces by", float(np.abs(made - means).max()))

# %% [markdown]
# ## Tokens that a batch decides, and words
#
# The most frequent pairs of a batch become tokens for this batch alone (`transfer/dynamic`). A model of words needs no tokenizer at all: it
# spells them (`transfer/words`).

# %%
from lexinv.tokenization.byte_pairs import GPT2_SPLIT
from lexinv.transfer.dynamic import merge_batch, tokenize
from lexinv.transfer.words import cut, split

library = load_tokenizer("bpe:300", corpus)
batch = tokenize(texts, library, GPT2_SPLIT)
for merges in (0, 20, 100):
    merged = merge_batch(batch.tokens, merges, batch.boundary, library.vocab_size)
    print(f"{merges:>3} merges: {merged.lengths.sum()} tokens, {len(merged.pieces)} of them new")
words, _ = cut(split(texts[0]), 12)
print(words[:8])

# %% [markdown]
# ## Digits
#
# A model that adds keeps its accuracy only under tokens that group digits as its own did (`transfer/digits`).

# %%
print("pieces of 1234567:", [world.tokenizer.pieces[token] for token in world.tokenizer.encode("1234567")])
print("of the target:    ", [target.pieces[token] for token in target.encode("1234567")])

# %% [markdown]
# ## Figure and claims

# %%
reproduced = reproduce("transfer/transplant", PRESET)
print("\n".join(reproduced.claims))
reproduced.figure

# %% [markdown]
# ## Exercise
#
# 1. Which of the words that you write yourself hold a new token? What do they cost under rows of zeros, and what under means of pieces?
# 2. Fit a combination on the table of one model and apply it to another one's of the same tokenizer. What has to hold for that to work?
