"""A Markov language under an automaton, exactly: the mass of all allowed texts, and which tokens they have where."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lexinv.data.automata import Acceptor
from lexinv.validation import require


class Posterior(NamedTuple):
    """log_evidence: ln Z, of the mass of all texts of this length that are allowed. marginals: p(token at each place) given that."""

    log_evidence: float
    marginals: Float[np.ndarray, "length vocab"]


def posterior(
    initial: Float[np.ndarray, " vocab"],
    transition: Float[np.ndarray, "vocab vocab"],
    constraint: Acceptor,
    length: int,
) -> Posterior:
    """By forwards and backwards sums over (state, last token), in float64. Raises `InvalidConfig` where no text is allowed."""
    moves, accepting = np.asarray(constraint.next_state), np.asarray(constraint.accepting, np.float64)
    states, vocab = moves.shape
    leads = (moves[:, :, None] == np.arange(states)).astype(np.float64)  # [state, token, state after it]
    forward = [np.einsum("vs,v->sv", leads[0], initial)]
    for _ in range(length - 1):
        forward.append(np.einsum("su,uv,svt->tv", forward[-1], transition, leads))
    backward = [np.broadcast_to(accepting[:, None], (states, vocab))]
    for _ in range(length - 1):
        backward.append(np.einsum("uv,svt,tv->su", transition, leads, backward[-1]))
    joint = np.stack(forward) * np.stack(backward[::-1])
    mass = joint.sum(axis=(1, 2))
    require(bool(mass[-1] > 0), "constraint", (states, vocab), f"one that allows a text of {length} tokens")
    return Posterior(float(np.log(mass[-1])), joint.sum(axis=1) / mass[:, None])


def unrolled(constraint: Acceptor, length: int) -> Acceptor:
    """The same for texts of exactly `length` tokens: its states are (tokens read, state), so that what is too late is seen."""
    moves, accepting = np.asarray(constraint.next_state), np.asarray(constraint.accepting)
    states = len(moves)
    read = np.arange(length + 1)[:, None, None]
    found: Int[np.ndarray, "read states vocab"] = np.where(moves[None] >= 0, (read + 1) * states + moves[None], -1)
    found[length] = -1
    ends: Bool[np.ndarray, "read states"] = (read[:, :, 0] == length) & accepting[None]
    return Acceptor(jnp.asarray(found.reshape(-1, moves.shape[1]), jnp.int32), jnp.asarray(ends.reshape(-1)))
