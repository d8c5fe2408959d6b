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
# # Finding a text by its tokens
#
# A search by the vectors of single tokens returns tokens, not texts. Lee et al. (2023), arXiv 2304.01982, train so that these tokens are
# enough to score a text, which then does not have to be fetched.

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
# ## Documents and questions
#
# Each document names eight things, a question two of them; a thing has two names, and the question may use the other one.

# %%
import numpy as np

from experiments.subjects.topic_documents import TopicDocuments, draw_collection, draw_queries

world = TopicDocuments(documents=300, asked=200)
collection = draw_collection(world, seed=0)
gold = np.arange(200, 220)
queries = draw_queries(np.random.default_rng(0), world, collection, gold)
print("document", collection.tokens[200])
print("question", queries[0], "shares the words", np.intersect1d(queries[0], collection.tokens[200]))

# %% [markdown]
# ## What a score looks at
#
# ColBERT's score takes the best token of every document for each word of the question, XTR's only tokens that are among the k nearest of
# all. Without training both see little; so does a search for the nearest tokens.

# %%
import jax
import jax.numpy as jnp

from experiments.subjects.topic_documents import LENGTH, encode_all, initialize
from lexinv.nn.transformer import TransformerConfig
from lexinv.sequence.late_interaction import colbert_score, retrieve, retrieved_score, token_similarities, xtr_score

model = TransformerConfig(depth=2, width=32, heads=2, mlp_width=64, causal=False, max_length=LENGTH)
params = initialize(model, world.vocab, 16, jax.random.key(0))
asked, vectors = (encode_all(model, params, jnp.asarray(texts)) for texts in (queries, collection.tokens))
words = jnp.ones(queries.shape, bool)
similar = token_similarities(asked, vectors, jnp.ones(collection.tokens.shape, bool))
near, places = retrieve(asked[0], vectors.reshape(-1, 16), 50)
alone = retrieved_score(near, places // LENGTH, len(vectors), words[0])
print("ColBERT", colbert_score(similar, words)[0, 200], "of at most", colbert_score(similar, words)[0].max())
print("XTR", xtr_score(similar, words, 32)[0, 200], "of at most", xtr_score(similar, words, 32)[0].max())
print("by 50 retrieved tokens a word", alone[200], "of at most", alone.max())

# %% [markdown]
# ## Figure and claims

# %%
reproduced = reproduce("sequence/token_retrieval", PRESET)
print("\n".join(reproduced.claims))
reproduced.figure

# %% [markdown]
# ## Exercise
#
# 1. What happens to both scores if a document is repeated a hundred times in the collection?
# 2. At which k is XTR's score in training the same as ColBERT's? Which similarities must be positive for that?
