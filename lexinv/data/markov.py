"""Markov sources of any order: the languages for which the theory of tokenization can be written down exactly.

A source over S symbols of order k is its kernel, float[S^k, S]: row c holds p(next symbol | the last k symbols), where the context c is
those k symbols read as a number in base S, the most recent one as the last digit. Everything exact is computed in float64 on the host.
"""

from collections.abc import Sequence
from math import gcd

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.special import entr

from lexinv.data.symbols import require_symbols
from lexinv.randomness import threefry
from lexinv.validation import InvalidConfig, require

MOST_CONTEXTS = 4096
MOST_BLOCKS = 2**20

Kernel = Float[np.ndarray, "contexts symbols"]


def switching_kernel(order: int, p: float, q: float) -> Kernel:
    """The order-k switching process on {0, 1}: P(1 | X_{n-k} = 0) = p, P(0 | X_{n-k} = 1) = q, whatever lies between.

    It is k interleaved first-order chains (Rajaraman et al. 2024, section 2): pi = (q, p) / (p + q) and the entropy rate
    (q h(p) + p h(q)) / (p + q) do not depend on k, and fewer than k consecutive symbols after each other say nothing of the next.

    Raises `InvalidConfig` for p or q outside (0, 1), where the process is reducible or periodic.
    """
    require(1 <= order <= 12, "order", order, "1 to 12")
    for name, value in (("p", p), ("q", q)):
        require(
            0 < value < 1, name, value, "between 0 and 1, both excluded: the process is reducible at 0, periodic at 1"
        )
    oldest_is_one = np.arange(2**order) >= 2 ** (order - 1)
    one = np.where(oldest_is_one, 1 - q, p)
    return np.stack([1 - one, one], axis=1)


def cyclic_kernel(symbols: int, slip: float) -> Kernel:
    """X_{n+1} = X_n + 1 modulo `symbols` with probability 1 - slip, otherwise any other symbol, all alike. pi is uniform.

    Ours, for the interaction of dictionary and encoder: H(pi) = ln(symbols) while the entropy rate goes to 0 with the slip.
    """
    require(symbols >= 3, "symbols", symbols, "at least 3")
    require(0 < slip < 1, "slip", slip, "between 0 and 1, both excluded: the process is periodic at 0")
    following = np.roll(np.eye(symbols), 1, axis=1)
    return following * (1 - slip) + (1 - following) * (slip / (symbols - 1))


def random_kernel(
    key: Key[Array, ""], order: int, symbols: int, concentration: float | Float[Array, ""] = 1.0
) -> Float[Array, "contexts symbols"]:
    """A kernel whose rows are independent Dirichlet(concentration, ..., concentration) draws (Makkuva et al. 2024, `get_random_P`).

    Drawn once it is a language; drawn anew for every sequence (under `vmap`) the language must be learned in context.
    """
    return jax.random.dirichlet(threefry(key), jnp.full(symbols, concentration), (symbols**order,))


def seeded_kernels(symbols: int, concentration: float, seeds: Sequence[int]) -> Float[Array, "seeds symbols symbols"]:
    """First-order `random_kernel`s, one for each seed, by NumPy: JAX takes longer to compile gammas than a small model to train."""
    draws = [np.random.default_rng(seed).dirichlet(np.full(symbols, concentration), symbols) for seed in seeds]
    return jnp.asarray(np.stack(draws), jnp.float32)


def check_kernel(kernel: Kernel) -> Kernel:
    """`kernel` as float64 with rows normalised exactly, if it is that of an ergodic source.

    Raises `InvalidConfig` for a number of rows that is no power of the number of symbols, for negative entries and rows that do not sum
    to one (within 1e-6), and for a reducible or periodic chain, naming the row or the contexts.
    """
    kernel = np.asarray(kernel, np.float64)
    order(kernel)
    for row, column in zip(*np.nonzero(~(kernel >= 0)), strict=True):
        raise InvalidConfig(f"kernel[{row}, {column}]", float(kernel[row, column]), "a probability, zero or more")
    sums = kernel.sum(axis=1)
    for row in np.flatnonzero(np.abs(sums - 1) > 1e-6):
        raise InvalidConfig(f"kernel[{row}]", kernel[row].tolist(), f"a row that sums to one, not {sums[row]:.6g}")
    contexts, symbols = kernel.shape
    graph = context_transitions(kernel)
    count, component = connected_components(graph, directed=True, connection="strong")
    if count > 1:
        first, *_, last = (describe(np.flatnonzero(component == c), contexts, symbols) for c in range(count))
        raise InvalidConfig(
            "kernel", f"{count} classes", f"an irreducible chain; contexts {first} and {last} do not reach each other"
        )
    period, distance = _period(graph)
    if period > 1:
        classes = (describe(np.flatnonzero(distance % period == c), contexts, symbols) for c in range(2))
        raise InvalidConfig(
            "kernel", f"period {period}", f"an aperiodic chain; contexts {' and '.join(classes)} alternate"
        )
    return kernel / sums[:, None]


def order(kernel: Float[np.ndarray, "contexts symbols"] | Float[Array, "contexts symbols"]) -> int:
    """k, from the shape [S^k, S]. Raises `InvalidConfig` if that is none."""
    contexts, symbols = kernel.shape
    require(symbols >= 2, "symbols", symbols, "at least 2")
    k, power = 0, 1
    while power < contexts:
        k, power = k + 1, power * symbols
    require(power == contexts and k >= 1, "contexts", contexts, f"a power of the {symbols} symbols, at least the first")
    return k


def digits(contexts: Int[np.ndarray, " n"] | Sequence[int], length: int, symbols: int) -> Int[np.ndarray, "n length"]:
    """The symbols of contexts or blocks given as numbers in base `symbols`, oldest first."""
    return np.asarray(contexts)[:, None] // symbols ** np.arange(length - 1, -1, -1)[None, :] % symbols


def describe(states: np.ndarray, contexts: int, symbols: int) -> str:
    """The first few of some contexts as strings of symbols, for messages."""
    length = 0
    while symbols**length < contexts:
        length += 1
    separator = "" if symbols <= 10 else " "
    names = [separator.join(map(str, row)) for row in digits(states[:4], length, symbols)]
    return "{" + ", ".join(names) + (", ..." if len(states) > 4 else "") + "}"


def context_transitions(kernel: Kernel) -> coo_array:
    """The chain on contexts, sparse [S^k, S^k]: symbol x leads from context c to (c S + x) mod S^k."""
    contexts, symbols = kernel.shape
    order(kernel)
    sources, symbol = np.nonzero(kernel)
    following = (sources * symbols + symbol) % contexts
    return coo_array((kernel[sources, symbol], (sources, following)), shape=(contexts, contexts))


def stationary_distribution(kernel: Kernel) -> Float[np.ndarray, " contexts"]:
    """The law of k consecutive symbols of the stationary source, by one linear solve: pi (I - P + 1 1ᵀ) = 1ᵀ.

    Where something of that is below its rounding, by elimination without subtractions, whose relative errors are small in every entry.
    Everything exact goes through here, and so through `check_kernel`: raises `InvalidConfig` for what is not an ergodic source.
    """
    contexts = kernel.shape[0]
    require(
        contexts <= MOST_CONTEXTS,
        "contexts",
        contexts,
        f"at most {MOST_CONTEXTS} for the exact law; estimate it from a sample instead",
    )
    kernel = check_kernel(kernel)
    transitions = context_transitions(kernel).toarray()
    try:
        law = np.linalg.solve((np.eye(contexts) - transitions + 1).T, np.ones(contexts))
    except np.linalg.LinAlgError:  # two sets of contexts that rounding cuts apart
        return _eliminated(transitions)
    return law if law.min() > contexts * np.finfo(np.float64).eps else _eliminated(transitions)


def block_distribution(kernel: Kernel, length: int) -> Float[np.ndarray, " blocks"]:
    """p(X_1 ... X_length) of the stationary source for all S^length blocks, numbered as contexts are.

    Raises `InvalidConfig` above 2^20 blocks: `unigram.cross_entropy` on a sample is the Monte Carlo estimate.
    """
    contexts, symbols = kernel.shape
    blocks, k, longest = symbols**length, order(kernel), longest_blocks(symbols)
    limit = f"at most {longest} for exact enumeration of {symbols} symbols; count blocks of a sample instead"
    require(length >= 1, "length", length, "at least 1")
    require(blocks <= MOST_BLOCKS, "length", length, limit)
    law = stationary_distribution(kernel)
    if length <= k:
        return law.reshape(blocks, -1, order="C").sum(axis=1)
    for _ in range(length - k):
        law = (law[:, None] * kernel[np.arange(len(law)) % contexts]).reshape(-1)
    return law


def longest_blocks(symbols: int) -> int:
    """The length up to which all blocks of so many symbols are enumerated: 2^20 of them at most."""
    return int(np.log(MOST_BLOCKS) / np.log(symbols) + 1e-9)


def symbol_distribution(kernel: Kernel) -> Float[np.ndarray, " symbols"]:
    """pi: the law of a single symbol."""
    return block_distribution(kernel, 1)


def entropy_rate(kernel: Kernel) -> float:
    """H_inf = sum_c pi(c) H(p(. | c)) in nats per symbol: no lossless model of the source has a smaller loss."""
    return float(stationary_distribution(kernel) @ entr(kernel).sum(axis=1))


def block_entropy(kernel: Kernel, length: int) -> float:
    """H(X_1 ... X_length) in nats: by enumeration up to the order k, and H(X_1 ... X_k) + (length - k) H_inf beyond."""
    k = order(kernel)
    beyond = max(length - k, 0)
    return float(entr(block_distribution(kernel, min(length, k))).sum()) + beyond * entropy_rate(kernel)


def smallest_probability(kernel: Kernel) -> float:
    """delta: the smallest transition probability, on which the theorems' validity rests."""
    check_kernel(kernel)
    return float(kernel.min())


def mixing_time(kernel: Kernel, epsilon: float = 0.25) -> int:
    """The least t at which, from every context, the law of the context t symbols later is within `epsilon` of pi in total variation.

    Raises `InvalidConfig` above 1024 contexts, whose matrix powers take too long.
    """
    contexts = kernel.shape[0]
    require(0 < epsilon < 1, "epsilon", epsilon, "between 0 and 1")
    require(contexts <= 1024, "contexts", contexts, "at most 1024 for exact matrix powers")
    law = stationary_distribution(kernel)

    def mixed(power: np.ndarray) -> bool:
        return bool(0.5 * np.abs(power - law).sum(axis=1).max() <= epsilon)

    powers = [context_transitions(kernel).toarray()]  # P^1, P^2, P^4, ...
    while not mixed(powers[-1]):
        powers.append(powers[-1] @ powers[-1])
    # The distance never rises, so that t - 1 is the largest number of steps that is not enough, found bit by bit.
    steps, reached = 0, np.eye(contexts)
    for bit in reversed(range(len(powers) - 1)):
        longer = reached @ powers[bit]
        if not mixed(longer):
            steps, reached = steps + 2**bit, longer
    return steps if mixed(reached) else steps + 1


def negative_log_likelihood(kernel: Kernel, symbols: Integer[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """-ln p(x_n | the k symbols before it) of a text under its source, in nats; 0 for the first k, before which too little is known.

    Raises `InvalidConfig` for an empty text and a symbol that the source does not have.
    """
    k, base = order(kernel), kernel.shape[1]
    require_symbols("symbols", symbols, base)
    context = np.zeros(max(len(symbols) - k, 0), np.int64)
    for lag in range(k, 0, -1):
        context = context * base + symbols[k - lag : len(symbols) - lag]
    return np.concatenate([np.zeros(min(k, len(symbols))), -np.log(kernel[context, symbols[k:]])])


def _eliminated(transitions: Float[np.ndarray, "states states"]) -> Float[np.ndarray, " states"]:
    """The stationary law by Grassmann, Taksar and Heyman 1985: the chain is watched on fewer and fewer states, down to one."""
    watched, law = transitions.copy(), np.ones(len(transitions))
    for state in range(len(law) - 1, 0, -1):
        watched[:state, state] /= watched[state, :state].sum()
        watched[:state, :state] += np.outer(watched[:state, state], watched[state, :state])
    for state in range(1, len(law)):
        law[state] = law[:state] @ watched[:state, state]
    return law / law.sum()


def _period(graph: coo_array) -> tuple[int, np.ndarray]:
    """The greatest common divisor of the lengths of all cycles of a strongly connected graph, and the distances from state 0."""
    reached, parents = breadth_first_order(graph, 0, directed=True)
    distance = np.zeros(len(reached), np.int64)
    for state in reached[1:]:
        distance[state] = distance[parents[state]] + 1
    sources, targets = graph.coords
    return gcd(*(distance[sources] + 1 - distance[targets]).tolist()), distance
