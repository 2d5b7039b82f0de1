"""What is shown afterwards: for each pipeline what happened when, what came of it, and the measured figures.

Everything is derived from what the engine has on record and from what the loader announced, with their own times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from ..timeline import Row, draw, duration, plain, table
from .chronicle import Chronicle, Pipeline, Step
from .figures import BOOTS, CALLS, STEPS

_ANNOUNCED: Final = 0.02
"""Seconds after which a sandbox announces that it works on a step, unless the step keeps its event loop busy.

Of one that was not announced only the end is on record: it took what had passed since the record before, at most.
"""


def print_timeline(console: Console, chronicle: Chronicle, pipeline: Pipeline) -> None:
    """When each step ran, and where the pipeline lost its sandbox or its host."""
    last = max([step.ended or 0 for each in chronicle.pipelines.values() for step in each.steps], default=0)
    title = f"{pipeline.repository.full_name} at {pipeline.repository.commit[:7]}"
    draw(console, title, rows(chronicle, pipeline), chronicle.began, last)


def rows(chronicle: Chronicle, pipeline: Pipeline) -> list[Row]:
    """Steps and marks in the order in which they began."""
    found = [*_steps(chronicle, pipeline), *_marks(chronicle, pipeline)]
    return sorted(found, key=lambda row: (row.start, bool(row.mark)))


def _steps(chronicle: Chronicle, pipeline: Pipeline) -> Iterator[Row]:
    resumed = sorted([*pipeline.boots, *(life.up for life in chronicle.lives)])
    before = 0.0
    for step in sorted(pipeline.steps, key=_end):
        start = step.started or before
        end = step.ended or start
        if step.kind == "do" and end - start < _ANNOUNCED:
            start = min(max([before, *(moment for moment in resumed if moment <= end)]), end)
        failure = pipeline.failures.get(step.name, step.error)
        note = f"{step.attempts - 1} failed: {failure}" if step.attempts > 1 else step.error
        yield Row(start, end, step.name, str(step.attempts or ""), note)
        before = end


def _marks(chronicle: Chronicle, pipeline: Pipeline) -> Iterator[Row]:
    for moment in pipeline.evictions:
        yield Row(moment, moment, "sandbox evicted", note=place(pipeline, moment), mark="x")
    first = min(pipeline.boots, default=0.0)
    end = max((step.ended or 0.0 for step in pipeline.steps), default=0.0)
    for before, after in pairwise(chronicle.lives):
        if before.down is not None and first < before.down < end:
            note = f"{place(pipeline, before.down)}, back in {duration(after.up - before.down)}"
            yield Row(before.down, after.up, "host killed", note=note, mark="X")


def place(pipeline: Pipeline, moment: float) -> str:
    """Where in a pipeline something happened, by what was on record then."""
    ordered = sorted(pipeline.steps, key=_end)
    past = [step for step in ordered if _end(step) <= moment]
    to_come = [step for step in ordered if _end(step) > moment]
    during = next((step for step in to_come if _in_progress(step, moment)), None)
    if during is not None:
        return f"during {during.name!r} ({len(past)} on record)"
    between = [f"after {past[-1].name!r}"] if past else []
    between += [f"before {to_come[0].name!r}"] if to_come else []
    return f"{', '.join(between)} ({len(past)} on record)"


def _end(step: Step) -> float:
    """When its outcome was recorded: never, for what is not over."""
    return math.inf if step.ended is None else step.ended


def _in_progress(step: Step, moment: float) -> bool:
    return step.started is not None and step.started <= moment


def print_verdicts(console: Console, chronicle: Chronicle) -> None:
    """What came of each push."""
    lines = table("verdicts", "repository", "verdict")
    lines.add_column("", overflow="fold")
    for pipeline in chronicle.pipelines.values():
        style = "green" if pipeline.verdict == "published" else "red"
        lines.add_row(pipeline.repository.full_name, Text(pipeline.verdict or pipeline.status, style),
                      Text("\n".join(_reasons(chronicle, pipeline))))  # fmt: skip
    console.print(lines)


def _reasons(chronicle: Chronicle, pipeline: Pipeline) -> Iterator[str]:
    tests = pipeline.output.get("tests")
    if isinstance(tests, dict):
        failed = failing_tests(pipeline)
        yield f"{plain(tests.get('run'), 10)} tests, {len(failed) or 'none'} failed"
        yield from failed
    if pipeline.output.get("digest"):
        yield plain(f"version {pipeline.output.get('version')}, {pipeline.output['digest']}", 60)
    for step in pipeline.steps:
        if step.attempts > 1:
            yield f"{step.name!r} was tried {step.attempts} times: {pipeline.failures.get(step.name, '')}"
    if pipeline.error:
        yield pipeline.error


def failing_tests(pipeline: Pipeline) -> list[str]:
    """The tests that a pipeline reports as failed."""
    tests = pipeline.output.get("tests")
    failed = tests.get("failed") if isinstance(tests, dict) else None
    return [plain(name) for name in failed[:20]] if isinstance(failed, list) else []


def print_figures(console: Console, figures: dict[str, Any]) -> None:
    """Boot, hop, steps; and how what was measured is confined on this machine."""
    lines = table("measured just now, in the host process", "figure", ">")
    lines.add_column("")
    lines.add_row("boot p50", duration(figures["boot"]),
                  f"a tenant never seen before, from a spare, to its first answer ({BOOTS} tenants)")  # fmt: skip
    lines.add_row("hop p50", f"{figures['hop'] * 1e6:.0f} µs", f"a call to a warm tenant and back ({CALLS} calls)")
    lines.add_row("steps/s", f"{figures['steps']:,.0f}",
                  f"one workflow of {STEPS} steps, each on disk before the next begins (synchronous=FULL)")  # fmt: skip
    console.print(lines)
    layers = figures["layers"]
    others = [f"; {name}: {state}" for name, state in layers.items() if state != "active"]
    console.print(f"{len(layers) - len(others)} layers of confinement{''.join(others)}", markup=False)
