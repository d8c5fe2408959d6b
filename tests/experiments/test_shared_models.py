"""Models of the user's cache: trained once, found by what decides them, and their speed told to every run that takes them."""

from experiments.harness import shared_models
from experiments.harness.record import training_speed
from experiments.harness.workspace import Workspace
from lexinv.training.metrics import SPEED_FILE


def test_models_are_shared_by_what_decides_them(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_models, "cache_directory", lambda: tmp_path / "cache")

    def train(shared: Workspace) -> list[float]:
        speed = shared.folder("regression") / SPEED_FILE
        if not speed.exists():
            speed.write_text('{"tokens_per_second": 1.0, "utilisation": null}')
        return [1.0]

    one, same, other = (
        shared_models.shared_models({"model": model}, train, Workspace(tmp_path / model, "hash", progress=False))
        for model in ("a", "a", "b")
    )
    assert one.identity == same.identity != other.identity
    assert one.seconds_elsewhere == 0.0 == other.seconds_elsewhere
    assert same.origin == {"models": one.identity, "seconds_elsewhere": same.seconds_elsewhere}
    speeds = [training_speed(tmp_path / model) for model in ("a", "b")]
    assert [list(speed) for speed in speeds] == [[f"models/{models.identity}/regression"] for models in (one, other)]
