"""Unigram models over tokens: their end-to-end cross-entropy in nats per character, estimated and exact.

A unigram model draws the number of tokens and then each token independently, Q(t_1 ... t_j) = Q_#(j) prod_i Q(t_i) (Rajaraman et al. 2024,
section 2). Q_# costs o(m) nats on m characters and is left out everywhere.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array, csr_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from scipy.special import entr

from lexinv.data.markov import Kernel, stationary_distribution
from lexinv.data.symbols import require_symbols
from lexinv.tokenization.encoders import Trie
from lexinv.tokenization.tokenizers import Tokenizer
from lexinv.validation import InvalidConfig, require


def token_counts(ids: Int[np.ndarray, " tokens"], tokenizer: Tokenizer) -> Int[np.ndarray, " vocab"]:
    """Occurrences of every token. Raises `InvalidConfig` for no tokens, and an id that is none."""
    require_symbols("ids", ids, tokenizer.size)
    return np.bincount(ids, minlength=tokenizer.size)


def add_constant(
    counts: Float[np.ndarray, " vocab"] | Int[np.ndarray, " vocab"], alpha: float = 0.5
) -> Float[np.ndarray, " vocab"]:
    """Q(t) = (n_t + alpha) / (n + alpha d); alpha = 1/2 is the estimator of Krichevsky and Trofimov 1981.

    Estimating d probabilities from n tokens costs about d / 2n nats per token. Raises `InvalidConfig` unless alpha is positive and no count
    negative.
    """
    _require_frequencies("counts", counts, some=False)
    require(alpha > 0, "alpha", alpha, "a positive number: a token that was never seen would cost infinitely much")
    smoothed = counts + alpha
    return smoothed / smoothed.sum()


def unigram_cross_entropy(
    model: Float[np.ndarray, " vocab"], counts: Int[np.ndarray, " vocab"], lengths: Int[np.ndarray, " vocab"]
) -> float:
    """-sum_t n_t ln Q(t) / (characters of the text), for a text with token counts n. Raises `InvalidConfig` for a text without tokens."""
    _require_frequencies("counts", counts)
    seen = counts > 0
    return float(-(counts[seen] @ np.log(model[seen])) / (counts @ lengths))


def cross_entropy(
    train_ids: Int[np.ndarray, " train"], test_ids: Int[np.ndarray, " test"], tokenizer: Tokenizer, alpha: float = 0.5
) -> float:
    """Nats per character of the test text under the add-constant unigram model of the training text's tokens."""
    model = add_constant(token_counts(train_ids, tokenizer), alpha)
    return unigram_cross_entropy(model, token_counts(test_ids, tokenizer), tokenizer.lengths)


def best_cross_entropy(rates: Float[np.ndarray, " vocab"], lengths: Int[np.ndarray, " vocab"]) -> float:
    """min over unigram models Q of the cross-entropy of tokens with these frequencies: H(Q_MLE) / E[length], in nats per character.

    `rates` may have any positive scale. Raises `InvalidConfig` where one is negative or all are zero.
    """
    _require_frequencies("rates", rates)
    frequencies = rates / rates.sum()
    return float(entr(frequencies).sum() / (frequencies @ lengths))


def greedy_token_rates(tokenizer: Tokenizer, kernel: Kernel) -> Float[np.ndarray, " vocab"]:
    """Occurrences of every token per character, exactly, in an endless text of the source under greedy encoding.

    That a longest match has ended tells of the characters after it, so that tokens are no Markov chain. The parser is one: it reads a
    character at a time and holds those that are not yet in a token, which always begin some token, a node of the trie. Node and last k
    symbols together are a finite chain; its stationary law, by one sparse linear solve, gives how often each step ends which tokens.

    Symbol s of the source is character s of the alphabet. Raises `InvalidConfig` for another encoder than greedy, for which no such chain
    is known here (estimate with `cross_entropy`), and where the law depends on how the text begins.
    """
    require(
        tokenizer.encoder == "greedy", "encoder", tokenizer.encoder, "greedy; the others by `cross_entropy` on a sample"
    )
    symbols = kernel.shape[1]
    require(len(tokenizer.alphabet) == symbols, "alphabet", tokenizer.alphabet, f"the source's {symbols} symbols")
    contexts, parser = kernel.shape[0], _GreedyParser(tokenizer)
    states: dict[tuple[int, int], int] = {}
    for context in np.flatnonzero(stationary_distribution(kernel) > 0).tolist():
        states[0, context] = len(states)
    queue = list(states)
    sources, targets, probabilities, emitted = [], [], [], []
    for state in queue:
        node, context = state
        for symbol in np.flatnonzero(kernel[context]).tolist():
            following_node, tokens = parser.read(node, symbol)
            following = following_node, (context * symbols + symbol) % contexts
            if following not in states:
                states[following] = len(states)
                queue.append(following)
            sources.append(states[state])
            targets.append(states[following])
            probabilities.append(kernel[context, symbol])
            emitted.append(tokens)
    transitions = coo_array((probabilities, (sources, targets)), shape=(len(states), len(states))).tocsr()
    weights = _stationary(transitions)[sources] * np.array(probabilities)
    rates = np.zeros(tokenizer.size)
    for weight, tokens in zip(weights, emitted, strict=True):
        for token in tokens:
            rates[token] += weight
    return rates


def asymptotic_cross_entropy(tokenizer: Tokenizer, kernel: Kernel) -> float:
    """min over unigram models of the end-to-end loss of a greedy tokenizer on a source, exactly, in nats per character."""
    return best_cross_entropy(greedy_token_rates(tokenizer, kernel), tokenizer.lengths)


def _require_frequencies(field: str, values: np.ndarray, some: bool = True) -> None:
    for place in np.flatnonzero(~(values >= 0))[:1]:
        raise InvalidConfig(f"{field}[{place}]", float(values[place]), "zero or more")
    require(not some or bool(values.any()), field, "all zero", "some that are not")


class _GreedyParser:
    """Greedy encoding as a transducer over the nodes of the trie; each step is worked out once."""

    def __init__(self, tokenizer: Tokenizer):
        self.trie = Trie(tokenizer.vocabulary)
        self.alphabet = tokenizer.alphabet
        self.strings, self.longest = [""] * len(self.trie.token), [(-1, 0)] * len(self.trie.token)
        for node, children in enumerate(self.trie.children):  # a child has a larger number than its parent
            for character, child in children.items():
                self.strings[child] = self.strings[node] + character
                token = self.trie.token[child]
                self.longest[child] = (token, len(self.strings[child])) if token >= 0 else self.longest[node]
        self.steps: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}

    def read(self, node: int, symbol: int) -> tuple[int, tuple[int, ...]]:
        """The node after one more character, and the tokens that have ended."""
        if (node, symbol) not in self.steps:
            self.steps[node, symbol] = self._read(node, self.alphabet[symbol])
        return self.steps[node, symbol]

    def _read(self, node: int, pending: str) -> tuple[int, tuple[int, ...]]:
        ended = []
        while pending:
            following = self.trie.children[node].get(pending[0], -1)
            if following >= 0:
                node, pending = following, pending[1:]
            else:
                token, length = self.longest[node]
                ended.append(token)
                node, pending = 0, self.strings[node][length:] + pending
        return node, tuple(ended)


def _stationary(transitions: csr_array) -> Float[np.ndarray, " states"]:
    """The stationary law of a chain with one recurrent class (periodic or not): pi = 1 at one of its states, solved for the others."""
    _, component = connected_components(transitions, directed=True, connection="strong")
    sources, targets = transitions.nonzero()
    left = np.unique(component[sources[component[sources] != component[targets]]])
    closed = np.setdiff1d(component, left)
    require(
        len(closed) == 1,
        "kernel",
        f"{len(closed)} recurrent classes of the parser",
        "one: the law depends on how the text begins",
    )
    recurrent = np.flatnonzero(component == closed[0])
    first, others = recurrent[:1], recurrent[1:]
    within = transitions[others][:, others]
    law = np.zeros(len(component))
    law[first] = 1.0
    if len(others):
        system = (eye_array(len(others)) - within.T).tocsc()
        law[others] = np.asarray(spsolve(system, transitions[first][:, others].toarray()[0]))
    return law / law.sum()
