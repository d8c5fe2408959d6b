"""Scoring with models made by hand: one that says what it is told, one that never says it, one that knows nothing, one that guesses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lexinv.data.corpora import Corpus
from lexinv.data.tokenizers import load_tokenizer
from lexinv.lexinvariance.symbol_tasks import MARKS, symbol_task
from lexinv.lexinvariance.task_scores import chance, encode_answers, score_task
from lexinv.lexinvariance.tasks import Example, Task, prompts
from lexinv.nn.language_model import initialize, make_logits
from lexinv.nn.lexicon import LexiconConfig
from lexinv.nn.transformer import TransformerConfig
from lexinv.validation import InvalidConfig

LETTERS, CHAR = (load_tokenizer(name, Corpus("made up", "0", {})) for name in ("letters", "char"))
IDS = {int(LETTERS.encode(f"a{mark}a")[1]) for mark in MARKS}
VOCAB = LETTERS.vocab_size


def task(name="reverse", count=40, symbols="abcdefghijklmnopqrstuvwxyz"):
    rng = np.random.default_rng(0)
    return symbol_task(name, rng, symbols, length=4, demonstrations=3, count=count)


def spelled(task, shots=0):
    return prompts(task, np.random.default_rng(1), shots)


def answers(task, tokenizer=LETTERS, shots=0):
    return encode_answers(task, spelled(task, shots), tokenizer.encode)


def says(task, texts, tokenizer=LETTERS, shots=0):
    """Logits that are highest for the given text behind each prompt, at random elsewhere."""
    rng, starts = np.random.default_rng(2), [len(tokenizer.encode(prompt)) for prompt in spelled(task, shots)]

    def logits(batch):
        found = rng.normal(size=(*batch["tokens"].shape, tokenizer.vocab_size))
        for place, row in enumerate(batch["row"]):
            said = tokenizer.encode(texts[row])
            if batch["tokens"][place].any():  # rows that only fill up the batch are empty
                found[place, np.arange(starts[row], starts[row] + len(said)), said] = 50.0
        return found

    return logits


def knows(task, shots=0):
    return says(task, [example.targets[0] for example in task.examples], shots=shots)


def uniform(batch):
    return np.zeros((*batch["tokens"].shape, CHAR.vocab_size))


@pytest.mark.parametrize("name", ["reverse", "first", "two_hop"])
@pytest.mark.parametrize("shots", [0, 2])
def test_whoever_knows_the_answers_scores_one_and_whoever_never_says_them_nothing(name, shots):
    asked = task(name)
    possible = answers(asked, shots=shots)
    right = score_task(knows(asked, shots=shots), asked, possible, marks=IDS)
    assert [column.mean() for column in right] == [1.0, 1.0, 1.0] and right.whole.shape == right.grade.shape == (40,)
    never = score_task(lambda batch: -knows(asked, shots=shots)(batch), asked, possible, marks=IDS)
    assert [column.mean() for column in never] == [0.0, 0.0, 0.0]


def test_one_wrong_token_spoils_an_exact_match():
    asked = task("reverse")
    almost = [right[:-1] + right[0] for right in (example.targets[0] for example in asked.examples)]
    scores = score_task(says(asked, almost), asked, answers(asked), marks=IDS)
    assert scores.whole.sum() == scores.prompt.sum() == 0


def test_marks_and_symbols_that_the_prompt_does_not_show_are_no_candidates_there():
    asked = task("first", symbols="abcdefghijklmnop")  # 16 symbols, all of which every prompt shows

    def distracted(batch):
        found = knows(asked)(batch)
        found[..., [*IDS, int(LETTERS.encode("z")[0])]] = 99.0
        return found

    scores = score_task(distracted, asked, answers(asked), marks=IDS)
    assert scores.whole.sum() == 0 and scores.prompt.mean() == 1.0 and scores.grade.mean() == 1.0
    assert score_task(distracted, asked, answers(asked)).prompt.sum() == 0


@pytest.mark.parametrize("name", ["copy", "odd_one_out", "majority"])
def test_a_model_that_knows_nothing_grades_at_chance(name):
    """All choices are equally probable, wherever the right one stands: the expected grade of a guess, exactly."""
    asked = task(name)
    scores = score_task(uniform, asked, answers(asked))
    expected = chance(asked, answers(asked), VOCAB, IDS)
    np.testing.assert_allclose(scores.grade, expected.grade)
    assert expected.grade.mean() == pytest.approx({"copy": 1 / 4, "odd_one_out": 1 / 2, "majority": 1 / 2}[name])


def test_chance_of_several_symbols_is_a_power():
    asked = task("reverse")
    one = chance(task("first"), answers(task("first")), VOCAB, IDS)
    assert [column.mean() for column in one] == pytest.approx([1 / 29, 1 / 16, 1 / 4])
    expected = chance(asked, answers(asked), VOCAB, IDS)
    assert expected.whole == pytest.approx(29.0**-4) and expected.prompt == pytest.approx(16.0**-4)
    hidden = Task("hidden", "", (Example("ab", ("c",)),))
    assert chance(hidden, answers(hidden, CHAR), 130).prompt.tolist() == [0.0]


TRIVIA = Task(
    "trivia",
    "",
    (
        Example("capital of France?", ("Paris", "paris"), (("Paris", 1.0), ("Rome", 0.0), ("Lyon, perhaps", 0.25))),
        Example("two and two?", ("4",)),
    ),
)


@pytest.mark.parametrize(
    "said, whole, grade",
    [
        (("Paris", "4"), [1, 1], 1.0),
        (("paris", "5"), [1, 0], 1.0),
        (("Rome", "4"), [0, 1], 0.0),
        (("Lyon, perhaps", "4"), [0, 1], 0.25),
    ],
)
def test_any_accepted_answer_counts_and_choices_have_their_scores(said, whole, grade):
    scores = score_task(says(TRIVIA, said, CHAR), TRIVIA, answers(TRIVIA, CHAR))
    assert scores.whole.tolist() == whole and scores.grade.tolist() == [grade]


def test_log_likelihoods_are_sums_over_the_tokens():
    """With choices of different lengths under uniform logits the shorter one wins: nothing is divided by the length."""
    asked = Task("t", "", (Example("x", ("ab",), (("ab", 1.0), ("a", 0.0))),))
    assert score_task(uniform, asked, answers(asked, CHAR)).grade.tolist() == [0.0]


def test_what_the_tokenizer_cannot_spell_or_the_context_cannot_hold_is_refused():
    plus = Task("signs", "", (Example("a", ("b",)), Example("a", ("+",))))
    with pytest.raises(InvalidConfig, match=r"signs: examples\[1\] = '\+'"):
        answers(plus)
    with pytest.raises(InvalidConfig, match=r"reverse: examples\[0\] = '39 tokens' is not possible: at most 30"):
        encode_answers(task(), spelled(task()), LETTERS.encode, longest=30)


def test_a_spelling_that_changes_at_the_seam_is_scored_from_there():
    """The tokenizer `letters` drops the space at the end of a prompt; with the answer behind it, it is a token of the answer."""
    asked = Task("t", "", (Example("ab", ("cd",)),), example_output_prefix=" ")
    seen = []

    def logits(batch):
        found = np.zeros((*batch["tokens"].shape, VOCAB))
        found[:, np.arange(4, 7), LETTERS.encode("b cd")[1:]] = 9.0
        seen.append(LETTERS.decode(batch["tokens"][0, :7]))
        return found

    assert score_task(logits, asked, answers(asked)).whole.tolist() == [1.0]
    assert seen == ["q ab cd"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["standard", "lexinvariant"])
def test_scores_of_a_network_depend_neither_on_batches_nor_on_padding(kind):
    config = TransformerConfig(depth=1, width=16, heads=2, mlp_width=16, positions="none")
    lexicon = LexiconConfig(kind)
    params = initialize(config, lexicon, VOCAB, jax.random.key(0))
    compiled, shapes = jax.jit(make_logits(config, lexicon, VOCAB)), set()

    def logits(batch):
        shapes.add(batch["tokens"].shape)
        return compiled(params, {name: jnp.asarray(value) for name, value in batch.items()}, jax.random.key(1))

    asked = task("missing", count=20)
    scores = [score_task(logits, asked, answers(asked), batch_size=size) for size in (7, 20)]
    assert shapes == {(7, 64), (20, 64)}
    for one, other in zip(*scores, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 0 < scores[0].grade.mean() < 1
