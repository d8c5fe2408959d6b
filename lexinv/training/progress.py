"""What the user sees of a run while it trains: a bar on a terminal or in a notebook, otherwise a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0

Update = Callable[[int, float], None]


class Speed:
    """How fast a run trains, from the first update that it is told of: that leaves compilation out, and nothing else.

    peak_share: what one token per second is of the devices' peak, where that is known.
    """

    def __init__(self, tokens_per_step: int, peak_share: float | None = None):
        self._tokens_per_step, self._peak_share = tokens_per_step, peak_share
        self._first: tuple[float, int] | None = None
        self.steps_per_second: float | None = None

    def update(self, done: int) -> None:
        """The metrics of update `done` have arrived."""
        now = time.monotonic()
        self._first = self._first or (now, done)
        if done > self._first[1]:
            self.steps_per_second = (done - self._first[1]) / max(now - self._first[0], 1e-9)

    @property
    def tokens_per_second(self) -> float | None:
        """None until two dispatches are done."""
        return None if self.steps_per_second is None else self.steps_per_second * self._tokens_per_step

    @property
    def utilisation(self) -> float | None:
        """Model FLOPs per second as a share of the devices' peak; None where either is not known."""
        return self.tokens_per_second * self._peak_share if self.tokens_per_second and self._peak_share else None


@contextmanager
def progress_bar(description: str, steps: int, start: int, speed: Speed, enabled: bool) -> Iterator[Update]:
    """Shows, on standard error, steps done out of `steps`, loss, tokens per second, utilisation where it is known, and time left.

    Gives `update(done, loss)`, which tells `speed` too. Set FORCE_COLOR to get the bar where there is no terminal; with `enabled=False`
    nothing is shown.
    """
    if not enabled:
        yield lambda done, loss: speed.update(done)
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    def describe(done: int, loss: float) -> str:
        speed.update(done)
        if speed.steps_per_second is None:
            return f"loss {loss:.4f}"
        minutes, seconds = divmod(round((steps - done) / speed.steps_per_second), 60)
        used = f"  {speed.utilisation:.1%} of peak" if speed.utilisation else ""
        return f"loss {loss:.4f}  {speed.tokens_per_second:,.0f} tokens/s{used}  {minutes}:{seconds:02d} left"

    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[shown]}")
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(description, total=steps, completed=start, shown="compiling")
            yield lambda done, loss: bar.update(task, completed=done, shown=describe(done, loss))
        return

    last_line = float("-inf")

    def write_line(done: int, loss: float) -> None:
        nonlocal last_line
        shown = describe(done, loss)
        if done >= steps or time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            print(f"{description} step {done}/{steps}  {shown}", file=sys.stderr, flush=True)

    yield write_line
