"""The trials of a sweep as they stand, and the table of them that is shown while they run."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.harness.executors import Report, Status
from experiments.harness.sweep_algebra import describe
from experiments.harness.verify import verdict
from experiments.harness.workspace import read_json
from lexinv.validation import InvalidConfig


@dataclasses.dataclass
class Trial:
    """One configuration of a sweep and where it stands."""

    folder: Path
    overrides: dict[str, Any]
    config: Any
    status: Status = "waiting"
    started: float = 0.0
    ended: float | None = None
    trouble: str | None = None
    """Of a trial that has failed although it is finished: which of its files cannot be read."""
    claims: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Of a finished trial."""
    wall_clock: float | None = None
    """Of all starts of a finished trial."""

    def __post_init__(self) -> None:
        self.stand(self.status)

    def stand(self, status: Status) -> None:
        """Note the status, and of a finished trial what it found."""
        self.status = status
        if status != "done":
            return
        try:
            self.claims = read_json(self.folder / "claims.json", list)
            self.wall_clock = read_json(self.folder / "environment.json", dict)["wall_clock_seconds"]
        except InvalidConfig as error:
            self.status, self.trouble = "failed", str(error)

    def seconds(self) -> float | None:
        """Wall clock of all its starts if it is finished, of this start otherwise; None before it starts."""
        if self.status == "done" or not self.started:
            return self.wall_clock
        return (self.ended or time.monotonic()) - self.started


ORDER: tuple[Status, ...] = ("running", "failed", "waiting", "stopped", "done")


@contextmanager
def live_table(trials: list[Trial], console: Any) -> Iterator[Report]:
    """A table of the trials while they run, those that need attention first; without a terminal a line for each that ends."""
    from rich.live import Live

    by_folder = {trial.folder: trial for trial in trials}

    def report(folder: Path, status: Status) -> None:
        trial = by_folder[folder]
        trial.stand(status)
        if status == "running":
            trial.started = time.monotonic()
            return
        trial.ended = time.monotonic()
        if not console.is_terminal:
            console.print(f"{status}: {describe(trial.overrides)}", markup=False)

    live = Live(console=console, get_renderable=lambda: table(trials), refresh_per_second=2, redirect_stdout=False)
    with live:
        yield report
    if not console.is_terminal:
        console.line()


def table(trials: list[Trial]) -> Any:
    """The state of every trial for the terminal."""
    counts = {status: sum(trial.status == status for trial in trials) for status in ORDER}
    shown = Table("trial", "overrides", "status", "seconds", "claims held", box=None)
    shown.caption = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    for trial in sorted(trials, key=lambda trial: ORDER.index(trial.status)):
        seconds, verdicts = trial.seconds(), [verdict(claim) for claim in trial.claims]
        held = f"{verdicts.count('holds')} of {len(verdicts)}" if verdicts else ""
        clock = "" if seconds is None else f"{seconds:.0f}"
        shown.add_row(trial.folder.name[:8], Text(describe(trial.overrides)), trial.status, clock, held)
    return shown
