"""What the benchmarks share: timing, percentiles, a table, and the machine they ran on. They assert nothing."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import platform
import statistics
import sysconfig
import time
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cloister.loader import WorkerCode

ROUNDS = 3
"""Each figure is the median of so many rounds."""


@dataclass(frozen=True)
class Row:
    """One line of a report: samples in seconds, and what they are held against."""

    name: str
    rounds: list[list[float]]

    def percentile(self, percent: int) -> float:
        """Median over the rounds of a percentile in microseconds."""
        cut = statistics.median(sorted(samples)[int(len(samples) * percent / 100)] for samples in self.rounds)
        return cut * 1e6


def report(title: str, rows: list[Row], *, limit: str) -> None:
    """Print p50, p90 and p99 of each row, and its p50 as a multiple of the limit's."""
    table = Table(title=f"{title}\n{machine()}", title_justify="left")
    table.add_column("")
    for name in ("p50 µs", "p90 µs", "p99 µs", "x limit"):
        table.add_column(name, justify="right")
    floor = next(row for row in rows if row.name == limit).percentile(50)
    for row in rows:
        cells = [f"{row.percentile(percent):,.0f}" for percent in (50, 90, 99)]
        table.add_row(row.name, *cells, "limit" if row.name == limit else f"{row.percentile(50) / floor:.1f}")
    Console(width=100).print(table)


def rates(title: str, rows: list[tuple[str, list[float]]], *, limit: str) -> None:
    """Print the median of each rate, its range, and its share of the limit's."""
    table = Table(title=f"{title}\n{machine()}", title_justify="left")
    table.add_column("")
    for name in ("per second", "lowest … highest", "of the limit"):
        table.add_column(name, justify="right")
    floor = statistics.median(dict(rows)[limit])
    for name, found in rows:
        middle = statistics.median(found)
        share = "limit" if name == limit else f"{middle / floor:.0%}"
        table.add_row(name, f"{middle:,.0f}", f"{min(found):,.0f} … {max(found):,.0f}", share)
    Console(width=100).print(table)


def listing(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of cells; the first column is a name."""
    table = Table(title=f"{title}\n{machine()}", title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=max(100, Console().width)).print(table)


def say(line: str) -> None:
    """Print a line as it is."""
    Console(width=max(100, Console().width), highlight=False, markup=False).print(line)


COLOURS = ("blue", "magenta", "cyan", "green", "yellow", "red")


def stacked(rows: Mapping[str, Mapping[str, float]], *, unit: str, width: int = 40) -> None:
    """Print one bar for each row, made of its parts, all to one scale. One row has all parts that there are."""
    names = max(rows.values(), key=len)
    colours = dict(zip(names, COLOURS, strict=False))
    most = max(sum(parts.values()) for parts in rows.values())
    wide = max(map(len, rows))
    console = Console(width=max(100, Console().width), highlight=False)
    for row, parts in rows.items():
        bar, reached, drawn = "", 0.0, 0
        for name, size in parts.items():
            reached += size
            cells = round(reached / most * width) - drawn
            drawn += cells
            bar += f"[{colours[name]}]{'█' * cells}[/]"
        console.print(f"{row:{wide}} {bar} {sum(parts.values()):,.0f} {unit}")
        told = "  ".join(f"[{colours[name]}]■[/] {name} {size:,.0f}" for name, size in parts.items())
        console.print(f"{'':{wide}} {told}", soft_wrap=True)


def options(
    description: str | None, *, drawn: bool = False, rows: Iterable[str] = (), **numbers: int
) -> argparse.Namespace:
    """What was asked for on the command line: a whole number for each name, `--plot FILE.png` where it can be drawn,
    and with `--only` some of the rows."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n\n")[0])
    if drawn:
        parser.add_argument("--plot", metavar="FILE.png", help="draw it too, with matplotlib")
    for name, number in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=number, metavar="N", help=f"[{number:,}]")
    if rows:
        parser.add_argument("--only", metavar="ROW", nargs="+", choices=[*rows], default=[*rows], help=", ".join(rows))
    return parser.parse_args()


def draw(file: str | None, paint: Callable[[typing.Any], None], *, title: str, size: tuple[float, float]) -> None:
    """Have `paint` draw on the axes of a figure, and keep that as a file, if one was asked for."""
    if file is None:
        return
    try:
        importlib.import_module("matplotlib").use("agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        say(f"{file} was not drawn: that needs matplotlib, which is not installed (pip install matplotlib).")
        return
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    axes.set_title(f"{title}\n{machine()}", loc="left", fontsize=9)
    paint(axes)
    figure.savefig(file, dpi=150)
    say(f"{file} was drawn.")


def machine() -> str:
    """Where this ran, in a line."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    python = platform.python_version()
    if "--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        python += " built without optimizations"  # pyenv's default; a call takes a tenth longer
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {python}, load {load:.1f}"


async def timed(count: int, work: Callable[[], Awaitable[object]]) -> list[float]:
    """How long each of `count` goes took, one after the other."""
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        await work()
        samples.append(time.perf_counter() - began)
    return samples


async def rounds(count: int, work: Callable[[], Awaitable[object]]) -> list[list[float]]:
    """The same, as often as there are rounds, after one that is thrown away."""
    await timed(max(count // 10, 1), work)
    return [await timed(count, work) for _ in range(ROUNDS)]


def tenant(number: int) -> WorkerCode:
    """A small program; no two tenants have the same one."""
    source = f"""
from workers import WorkerEntrypoint, WorkflowEntrypoint

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return f"Hello {{name}} from tenant {number}"

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        for number in range(event.payload.steps):
            await step.do(f"step {{number}}", lambda: number)
        return event.payload.steps
"""
    return WorkerCode(main_module="main.py", modules={"main.py": source})


def percentile(samples: Sequence[float], percent: float) -> float:
    """One of the samples, in their unit."""
    return sorted(samples)[min(int(len(samples) * percent / 100), len(samples) - 1)]


def main(work: Callable[[], Awaitable[None]]) -> None:
    """Run a benchmark."""

    async def run() -> None:
        await work()

    asyncio.run(run())
