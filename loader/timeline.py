"""What happened when, drawn for a terminal: a line for each stretch of time, and marks for what happened in between.

It knows neither engine nor sandbox; who draws says what was when. Names and words may be a tenant's: they are drawn as
text, and made harmless by `plain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_WIDE: Final = 100
_UNITS: Final = ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min"))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a timeline: a stretch of time, or with `mark` an instant at which something was done to it. Times are
    seconds since the epoch.
    """

    start: float
    end: float
    what: str
    attempts: str = ""
    note: str = ""
    mark: str = ""


def draw(console: Console, title: str, rows: Sequence[Row], began: float, last: float) -> None:
    """The rows as they are, beside a scale from `began` to `last`."""
    lines = table(title, "at>", "step", "attempts>", "took>")
    width = 22 if console.width >= _WIDE else 10
    lines.add_column("", width=width, no_wrap=True)
    lines.add_column("")
    for row in rows:
        took = "" if row.mark else _took(row.end - row.start)
        bar = _bar(row, began, last, width)
        style = "bold red" if row.mark else ""
        at = _at(max(row.start - began, 0.0))
        lines.add_row(at, Text(row.what, style), row.attempts, took, Text(bar, style or "cyan"), Text(row.note, style))
    console.print(lines)


def table(title: str, *columns: str) -> Table:
    """One without a frame; a column whose name ends with `>` is flushed right."""
    made = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        made.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", no_wrap=True)
    return made


def plain(value: object, limit: int = 120) -> str:
    """Text from a sandbox, fit for a terminal: one line, nothing that is not printable, bounded."""
    text = "".join(character if character.isprintable() else " " for character in str(value)[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2f} ms"


def _at(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 120 else duration(seconds)


def _took(seconds: float) -> str:
    """The engine's times are whole milliseconds."""
    return duration(seconds) if seconds >= 1 else f"{seconds * 1e3:.0f} ms" if seconds >= 0.001 else "< 1 ms"


def _bar(row: Row, began: float, last: float, width: int) -> str:
    scale = (width - 1) / max(last - began, 0.001)
    start, end = (int((moment - began) * scale) for moment in (row.start, row.end))
    return " " * start + (row.mark or "━") + "━" * (0 if row.mark else end - start)
