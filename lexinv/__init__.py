"""lexinv: the science of tokens in JAX. Pure functions, Flax modules and jitted train steps; `experiments/` composes them into figures.

Import what you need from its module, for example `from lexinv.nn.lexicon import draw_lexicon`.
"""
