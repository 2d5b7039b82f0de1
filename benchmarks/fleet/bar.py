"""How far something has come, how fast it goes and how long it will take; and a count against time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 10.0
"""Where there is no terminal to draw on, a line is printed so often."""


class Rate(ProgressColumn):
    """So many a second, of late."""

    def render(self, task: Task) -> Text:
        """The cell."""
        return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")


_shown = True


def hide() -> None:
    """Draw none from here on: another process does, of the same."""
    global _shown
    _shown = False


@contextmanager
def bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Shown on the error output; the function is told how many are done in all."""
    if not _shown:
        yield lambda _: None
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(console, what, total, done)
        return
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.update(task, completed=count)


def _lines(console: Console, what: str, total: int, done: int) -> Callable[[int], None]:
    began = last = time.perf_counter()
    over = False

    def move(count: int) -> None:
        nonlocal last, over
        now = time.perf_counter()
        if over or (count < total and now - last < LINE_SECONDS):
            return
        over = count >= total
        last, rate = now, (count - done) / max(now - began, 1e-9)
        left = f", {(total - count) / rate:,.0f} s left" if rate and count < total else ""
        console.print(f"{what}: {count:,} of {total:,}, {rate:,.0f}/s{left}")

    return move


class Course:
    """Points of time and a count, no more than some hundred however long it takes."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self._began, self._apart = time.perf_counter(), 0.1

    def note(self, count: float) -> None:
        """It is so many now."""
        now = time.perf_counter() - self._began
        if not self.points or now - self.points[-1][0] >= self._apart:
            self.points.append((round(now, 2), round(count, 1)))
            if len(self.points) > 400:
                self.points, self._apart = self.points[::2], self._apart * 2
