"""When checkpoints are written and which of them are kept. Imports nothing heavy, so that the command line can show it at once."""

from dataclasses import dataclass

from lexinv.validation import require


@dataclass(frozen=True)
class CheckpointConfig:
    """How often checkpoints are written and which are kept. That decides no result: a run may be resumed with other values."""

    seconds: float = 120.0
    """A checkpoint is written at least so often."""
    steps: int | None = None
    """And every so many updates."""
    keep: int = 2
    """The newest so many are kept. The second is there in case the newest turns out damaged."""
    keep_minutes: float | None = None
    """And for good the first, and each one that is so many minutes younger than the one kept before it."""

    def __post_init__(self):
        require(self.seconds >= 0, "checkpoints.seconds", self.seconds, "at least 0")
        require(self.steps is None or self.steps >= 1, "checkpoints.steps", self.steps, "at least 1")
        require(self.keep >= 1, "checkpoints.keep", self.keep, "at least 1")
        positive = self.keep_minutes is None or self.keep_minutes > 0
        require(positive, "checkpoints.keep_minutes", self.keep_minutes, "more than 0")
