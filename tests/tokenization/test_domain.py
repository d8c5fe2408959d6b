"""A domain's vocabulary: the library's merges under a cap, and tokens that are forced into it."""

import inspect
import json
import re

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lexinv.data.published import O200K_SPLIT
from lexinv.data.tokenizers import of_library
from lexinv.tokenization import domain
from lexinv.validation import InvalidConfig

TEXTS = [inspect.getsource(re), inspect.getsource(json), inspect.getdoc(re) or ""]


@pytest.mark.parametrize("cap", [2, 4, None])
def test_merges_are_the_librarys_under_the_same_cap(cap):
    found = domain.train(TEXTS, 400, cap)
    split = pre_tokenizers.Split(tokenizers.Regex(O200K_SPLIT), "isolated")
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    model.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    limit = {} if cap is None else {"max_token_length": cap + 1}
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False, **limit)
    model.train_from_iterator(TEXTS, trainer)
    theirs = {of_library("", model).pieces[number] for number in range(256, 400)}
    ours = set(found.pieces[257:])
    assert (
        len(ours & theirs) >= 142
    )  # here all 144; ties are broken by the ids of bytes, which the library numbers otherwise
    assert max(map(len, ours)) == max(map(len, theirs)) == (cap or max(map(len, ours)))


def test_forced_tokens_are_one_token_wherever_they_stand_as_words():
    forced = ("U.S.C.", "Int'l", "L. Rev.")
    found = domain.train(TEXTS, 300, forced=forced)
    assert found.vocab_size == 301 and found.pieces[-3:] == tuple(map(str.encode, forced))
    for token in forced:
        assert len(found.encode(token)) == 1
        assert found.vocab_size - 3 <= found.encode(f"see {token} 12")[found.encode("see ").size]
    inside = found.encode("xInt'lx")
    assert (inside < found.vocab_size - 3).all() and found.decode(inside) == "xInt'lx"
    text = "17 U.S.C. § 107; 3 Int'l L. Rev. 5\n"
    assert found.decode(found.encode(text)) == text
    plain = domain.train(TEXTS, 297)
    assert found.pieces[:-3] == plain.pieces  # what is merged does not know of them


@pytest.mark.parametrize(
    ("texts", "size", "arguments", "field"),
    [
        (TEXTS, 300, {"most_characters": 0}, "most_characters"),
        (TEXTS, 300, {"forced": ("ab", "ab")}, "forced"),
        (TEXTS, 300, {"forced": ("a",)}, "forced"),
        (TEXTS, 257, {"forced": ("ab", "cd")}, "size"),
        ([""], 300, {}, "texts"),
        (["ab"], 300, {}, "size"),
    ],
)
def test_refusals(texts, size, arguments, field):
    with pytest.raises(InvalidConfig, match=field):
        domain.train(texts, size, **arguments)


def test_abbreviations_of_law(asset, user_cache):
    asset("reporters")
    found = {kind: domain.abbreviations(kind, user_cache) for kind in domain.ABBREVIATIONS}
    assert "F. Supp." in found["reporters"] and "Int'l" in found["case_name_abbreviations"]
    assert all(len(each) > 1 for kind in found.values() for each in kind)
    with pytest.raises(InvalidConfig, match="kind"):
        domain.abbreviations("courts")
