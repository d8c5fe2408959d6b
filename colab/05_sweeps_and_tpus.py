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
# # Many runs, many devices
#
# A sweep over any field of an experiment, and one model on a mesh of all devices.

# %%
# On Colab: upload a wheel of lexinv, or write the address of your copy here (git+https://...). What Colab has of JAX stays as it is.
SOURCE = ""

import importlib.util
import subprocess
import sys

if importlib.util.find_spec("lexinv") is None:
    assert SOURCE, "SOURCE says from where to install lexinv"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", SOURCE], check=True)

# %% [markdown]
# ## A sweep
#
# It comes first: every trial is a process of its own, and a TPU belongs to the process that has looked for its devices. Trials are found
# again by the hash of their configuration: run the cell twice, and nothing is computed twice. With `--executor ray` they go to a cluster.

# %%
from experiments.__main__ import main

main(["sweep", "merging/spectral_distance", "smoke", "--grid", "width=16,24"])

# %%
import json
from pathlib import Path

(summary,) = Path("runs/merging/spectral_distance/sweeps").glob("smoke-*/summary.json")
print(json.dumps(json.loads(summary.read_text()), indent=1)[:1500])

# %% [markdown]
# ## A mesh
#
# `RUNTIME.mesh` divides every batch over all devices there are: one on a CPU, eight on a TPU v5e-8. `fsdp` would divide parameters too.
# The step is the same on all of them.

# %%
from experiments.harness.notebook import prepare

RUNTIME = prepare()
print(RUNTIME)

# %%
from dataclasses import replace

import jax
import jax.numpy as jnp

from lexinv.nn.language_model import initialize, make_loss
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.training.mesh import make_mesh, shard_batch, shard_state
from lexinv.training.optimizers import OptimizerConfig, make_optimizer
from lexinv.training.state import create_state
from lexinv.training.step import make_train_step

model, lexicon, vocab = TransformerConfig(depth=2, width=64, heads=2), LexiconConfig("lexinvariant"), 32
optimizer = make_optimizer(OptimizerConfig(warmup_steps=1), steps=10)
mesh = make_mesh(RUNTIME.mesh)
state = create_state(initialize(model, lexicon, vocab, jax.random.key(0)), optimizer, jax.random.key(1))
state = shard_state(state, mesh)
rows = 8 * mesh.size
batch = {
    "tokens": jax.random.randint(jax.random.key(2), (1, rows, 64), 0, vocab),
    "row": jnp.arange(rows, dtype=jnp.int32)[None],
}
step = make_train_step(make_loss(model, lexicon, vocab), optimizer)
for _ in range(3):
    state, metrics = step(state, shard_batch(batch, mesh))
print(mesh, {name: float(value[0]) for name, value in metrics.items()})

# %% [markdown]
# ## Exercise
#
# On a machine of several devices replace the mesh: `replace(RUNTIME.mesh, data=1, fsdp=RUNTIME.devices)`. The loss must be the same.

# %%
print(replace(RUNTIME.mesh, data=1, fsdp=RUNTIME.devices))
