"""What the user sees of a run while it trains: a bar on a terminal or in a notebook, otherwise a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0

Update = Callable[[int, float], None]


@contextmanager
def progress_bar(
    description: str, steps: int, start: int, tokens_per_step: int, enabled: bool, peak_share: float | None = None
) -> Iterator[Update]:
    """Shows, on standard error, steps done out of `steps`, loss, tokens per second and time left.

    peak_share: what one token per second is of the devices' peak; their utilisation is then shown too.

    Gives `update(done, loss)`. The rate is measured from the first update on, which leaves compilation out. Set
    FORCE_COLOR to get the bar where there is no terminal; with `enabled=False` nothing is shown.
    """
    if not enabled:
        yield lambda done, loss: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    first: tuple[float, int] | None = None

    def describe(done: int, loss: float) -> str:
        nonlocal first
        now = time.monotonic()
        first = first or (now, done)
        if done == first[1]:
            return f"loss {loss:.4f}"
        rate = (done - first[1]) / max(now - first[0], 1e-9)
        minutes, seconds = divmod(round((steps - done) / rate), 60)
        speed = rate * tokens_per_step
        used = f"  {speed * peak_share:.1%} of peak" if peak_share else ""
        return f"loss {loss:.4f}  {speed:,.0f} tokens/s{used}  {minutes}:{seconds:02d} left"

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
