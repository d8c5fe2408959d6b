"""Tokenizers trained by the `tokenizers` library, and ours in its format."""

from typing import Any

from lexinv.data.bpe import check_size
from lexinv.tokenization.encoders import LibraryEncoder
from lexinv.tokenization.tokenizers import Tokenizer, check_alphabet, to_symbols
from lexinv.validation import InvalidConfig, require

PIECE = 256
"""Characters of the pieces into which a text without word limits is cut for WordPiece and Unigram, whose time is not linear in a piece."""
INSIDE = "\ue000"
"""Marks WordPiece's tokens inside of a word. A private-use character, since `##` may be text."""


def train_wordpiece(text: str, size: int, alphabet: str, split_words: bool) -> Tokenizer:
    """WordPiece (Schuster and Nakajima 2012) as the library trains it: merges by count, then greedy longest match in each word.

    `split_words`: a space begins a new word, and no token crosses one; otherwise the text is cut into pieces of 256 characters. Tokens
    inside of a word are other tokens than those at its beginning, though they may be the same strings. Raises `InvalidConfig` for a size
    below two tokens for each character, and one that the text does not fill.
    """
    from tokenizers import models, trainers

    require(
        INSIDE not in alphabet, "alphabet", alphabet, f"anything without {INSIDE!r}, which marks the inside of words"
    )
    check_size(size, 2 * len(alphabet), "characters of the alphabet, at the beginning and inside of words")
    model = models.WordPiece(unk_token=alphabet[0], max_input_chars_per_word=2**31, continuing_subword_prefix=INSIDE)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        initial_alphabet=list(alphabet),
        # Given here since the library would number them in the order of its hashes, which changes from call to call and breaks ties.
        special_tokens=[INSIDE + character for character in alphabet if not (split_words and character == " ")],
        show_progress=False,
        continuing_subword_prefix=INSIDE,
    )
    return _train("wordpiece", model, trainer, text, size, alphabet, split_words, PIECE)


def train_unigram(text: str, size: int, alphabet: str, split_words: bool, at_most: bool = False) -> Tokenizer:
    """The unigram language model of Kudo 2018 as the library trains it: the most probable segmentation of each word.

    `split_words` as for `train_wordpiece`. The library drops tokens until they are few enough, and may drop more than it must. Raises
    `InvalidConfig` where they are then not `size`, unless `size` is asked for as the most; and for a size that is not above that of the
    alphabet, for which it may drop tokens forever.
    """
    from tokenizers import models, trainers

    check_size(size, len(alphabet) + 1, "of the alphabet's characters and a token more")
    trainer = trainers.UnigramTrainer(vocab_size=size, initial_alphabet=list(alphabet), show_progress=False)
    return _train("unigram", models.Unigram(), trainer, text, size, alphabet, split_words, PIECE, at_most)


def train_library_bpe(text: str, size: int, alphabet: str, split_words: bool) -> Tokenizer:
    """Byte-pair encoding by the library. `split_words`: a space begins a new word; otherwise the whole text is one word.

    Raises `InvalidConfig` for a size below that of the alphabet, and one for which the text has too few pairs.
    """
    from tokenizers import models, trainers

    check_size(size, len(alphabet))
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), show_progress=False)
    return _train("bpe", models.BPE(), trainer, text, size, alphabet, split_words, None)


def export(tokenizer: Tokenizer) -> str:
    """The content of a `tokenizer.json` that gives the `tokenizers` library the same ids for every text over the alphabet.

    Merges become the library's BPE, and a greedy dictionary its WordPiece without a mark for the inside of words (whose time is quadratic
    in the text: cut it first). Raises `InvalidConfig` for minimum-length encoding, which the library does not have.
    """
    import tokenizers
    from tokenizers import decoders, models

    if isinstance(tokenizer.encode_text, LibraryEncoder):
        return tokenizer.encode_text.model.to_str(pretty=True)
    ids = {token: index for index, token in enumerate(tokenizer.vocabulary)}
    if tokenizer.encoder == "merges":
        strings = tokenizer.vocabulary
        require(len(ids) == len(strings), "vocabulary", tokenizer.name, "tokens that are all different strings")
        model: Any = models.BPE(vocab=ids, merges=[(strings[left], strings[right]) for left, right in tokenizer.merges])
    elif tokenizer.encoder == "greedy":
        model = models.WordPiece(
            vocab=ids, unk_token=tokenizer.alphabet[0], max_input_chars_per_word=2**31, continuing_subword_prefix=""
        )
    else:
        raise InvalidConfig("encoder", tokenizer.encoder, "merges or greedy: the library has no such encoder")
    exported = tokenizers.Tokenizer(model)
    exported.decoder = decoders.Fuse()
    return exported.to_str(pretty=True)


def _train(
    kind: str,
    model: Any,
    trainer: Any,
    text: str,
    size: int,
    alphabet: str,
    split_words: bool,
    piece: int | None,
    at_most: bool = False,
) -> Tokenizer:
    """Train a model of the library to `size` tokens, or at most so many.

    Tokens that are marked as inside of a word stand for the string without the mark.
    """
    import tokenizers
    from tokenizers import pre_tokenizers

    to_symbols(text, check_alphabet(alphabet))
    trained = tokenizers.Tokenizer(model)
    if split_words:
        trained.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    elif piece is not None:
        trained.pre_tokenizer = pre_tokenizers.FixedLength(piece)
    # The alphabet twice: every character is then seen inside of a word, too.
    trained.train_from_iterator([2 * alphabet, text], trainer)
    ids = trained.get_vocab()
    vocabulary = tuple(token.removeprefix(INSIDE) for token in sorted(ids, key=ids.__getitem__))
    full = len(vocabulary) == size or (at_most and len(vocabulary) < size)
    require(full, "size", size, f"another size: the library stops at {len(vocabulary)} tokens on this text")
    return Tokenizer(f"{kind}:{size}", alphabet, vocabulary, (), "library", LibraryEncoder(trained))
