"""A random model of the Llama form as a world."""

from pathlib import Path

import pytest

from experiments.harness.workspace import Workspace
from experiments.subjects.pretrained_language_model import PretrainedWorld, open_pretrained


@pytest.fixture(scope="session")
def world(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainedWorld:
    return open_pretrained(str(checkpoint), Workspace(tmp_path_factory.mktemp("run"), "hash", False))
