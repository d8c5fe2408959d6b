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
