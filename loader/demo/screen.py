"""What is seen while it happens: a live table on a terminal, and plain lines anywhere else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .chronicle import Chronicle, Entry, Pipeline

_EVERY: Final = 0.08
_WIDE: Final = 100
_STYLES: Final = {
    "published": "bold green", "failed": "bold red", "rejected": "bold red", "errored": "bold red",
    "running": "cyan", "queued": "cyan", "waiting": "yellow",
}  # fmt: skip


@asynccontextmanager
async def shown(chronicle: Chronicle, console: Console) -> AsyncIterator[None]:
    """Show the chronicle while the block runs."""
    if not console.is_terminal:
        chronicle.listener = lambda entry: console.print(_line(chronicle, entry), soft_wrap=True)
        yield
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        animation = asyncio.create_task(_animate(chronicle, live))
        try:
            yield
        finally:
            animation.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await animation
            live.update(_picture(chronicle, console.width), refresh=True)


async def _animate(chronicle: Chronicle, live: Live) -> None:
    while True:
        live.update(_picture(chronicle, live.console.width), refresh=True)
        await asyncio.sleep(_EVERY)


def _line(chronicle: Chronicle, entry: Entry) -> Text:
    text = f"> {entry.text}" if entry.kind == "line" else entry.text
    about = f"{entry.about:<17} " if entry.about else "*** "
    return Text(f"{max(entry.at - chronicle.began, 0.0):6.2f} s  {about}{text}")


def _picture(chronicle: Chronicle, width: int) -> Group:
    """The table, and below it what the director did and what became of it."""
    story = [
        Text.assemble(
            (f"{max(entry.at - chronicle.began, 0.0):6.2f} s  ", "dim"),
            (f"{entry.about}: " if entry.about else "", "cyan"),
            (entry.text, "bold" if entry.kind == "act" else ""),
            overflow="ellipsis",
            no_wrap=True,
        )
        for entry in chronicle.entries
        if entry.kind in {"act", "sandbox", "end"}
    ]
    return Group(_table(chronicle, wide=width >= _WIDE), *story)


def _table(chronicle: Chronicle, *, wide: bool) -> Table:
    host = f"host process {chronicle.lives[-1].pid}" if chronicle.up else "no host process"
    title = Text.assemble("a pipeline per repository · ", (host, "green" if chronicle.up else "bold white on red"))
    table = Table(
        title=title, title_justify="left", title_style="", expand=True, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name, width in (("repository", 16), ("status", 9), ("step", 11)):
        table.add_column(name, min_width=width, no_wrap=True)
    table.add_column("progress", width=12 if wide else 9)
    table.add_column("tries", justify="right", no_wrap=True)
    table.add_column("sandbox", min_width=20, no_wrap=True)
    if wide:
        table.add_column("last log line", ratio=1, no_wrap=True, overflow="ellipsis")
    for pipeline in chronicle.pipelines.values():
        table.add_row(*_row(pipeline)[: len(table.columns)])
    return table


def _row(pipeline: Pipeline) -> list[Text | ProgressBar]:
    status = pipeline.verdict or pipeline.status
    done = sum(step.over for step in pipeline.steps)
    total = max(pipeline.repository.steps_in_sight, len(pipeline.steps))
    latest = pipeline.steps[-1] if pipeline.steps else None
    step = "" if latest is None or pipeline.ended else f"after {latest.name}" if latest.over else latest.name
    bad = pipeline.ended and status != "published"
    bar = ProgressBar(total=total, completed=done, finished_style="green",
                      complete_style="red" if bad else "cyan")  # fmt: skip
    return [
        Text(pipeline.repository.full_name),
        Text(status, style=_STYLES.get(status, "")),
        Text(step),
        bar,
        Text(str(sum(step.attempts for step in pipeline.steps))),
        _sandbox(pipeline),
        Text(pipeline.line, style="dim"),
    ]


def _sandbox(pipeline: Pipeline) -> Text:
    """Where it runs, and how it lost where it ran before."""
    if not pipeline.losses:
        return Text("" if pipeline.sandbox is None else str(pipeline.sandbox))
    if pipeline.sandbox is None:
        return Text(pipeline.losses[-1], "red")
    return Text.assemble(f"{pipeline.sandbox}  ", (f"{pipeline.losses[-1]}; replayed", "magenta"))
