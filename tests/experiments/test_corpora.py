"""Corpora as experiments name them."""

from experiments.harness.corpora import installed, slug


def test_different_corpora_have_different_folders():
    names = ["file:notes/*.txt", "file:notes/**/*.txt", "tfds:wiki40b/en", "kjv"]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("kjv") == "kjv"
    assert all(set(slug(name)).isdisjoint("/:*.") for name in names)


def test_only_the_bible_may_be_missing(monkeypatch):
    monkeypatch.setattr("experiments.harness.corpora.find_spec", lambda name: None)
    assert installed("python-docs") and not installed("kjv")
