"""One instance, described: where it stands, and a timeline of its steps that explains itself.

All of it comes from what is exported of an instance: a dict of what is on record. Names, errors and outputs in it are a
tenant's, and are made harmless before they are shown.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from ..timeline import Row, draw, duration, plain

_MARKS: Final = {
    "workflow_paused": "paused",
    "workflow_waiting_for_pause": "is to pause",
    "workflow_queued": "begun anew",
    "workflow_completed": "complete",
    "workflow_errored": "errored",
    "workflow_terminated": "terminated",
}
_TAKEN_UP: Final = {
    "workflow_paused": ("goes on", "after the pause"),
    "workflow_running": ("taken up again", "its run was lost with its sandbox or its host"),
    "workflow_waiting_for_pause": ("goes on", "the pause was called off, or its host was lost"),
}
"""What it means that a run begins, by what was told of the instance before. After a wait it is no news."""
_ATTEMPTS: Final = {"attempt_errored": "do", "rollback_attempt_errored": "undo"}
_MOMENTS: Final = {"wake_at": "wakes", "paused_at": "paused", "expires": "is kept until"}


def describe(console: Console, told: Mapping[str, Any], now: int, *, outputs: bool = False) -> None:
    """`told` is an export; `now` is in milliseconds. With `outputs` each step says what it came to."""
    scope = f" of {plain(told['scope'])!r}" if told["scope"] else ""
    console.print(Text(f"{told['workflow']} {plain(told['id'], 320)}{scope}: {told['status']}", "bold"))
    for line in _facts(told, now):
        console.print(Text(f"  {line}"), soft_wrap=True)
    rows = [*_steps(told, now, outputs), *_marks(told)]
    rows.sort(key=lambda row: (row.start, bool(row.mark)))
    if rows:
        draw(console, "", rows, told["created"] / 1000, max(row.end for row in rows))


def moment(milliseconds: int, now: int | None = None) -> str:
    """A time in UTC, and with `now` how far off it is."""
    shown = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    if now is None:
        return shown
    away = duration(abs(milliseconds - now) / 1000)
    return f"{shown} ({f'in {away}' if milliseconds > now else f'{away} ago'})"


def _facts(told: Mapping[str, Any], now: int) -> Iterator[str]:
    yield f"created {moment(told['created'], now)}" + (f", run {told['run']}" if told["run"] > 1 else "")
    if told["ended"] is not None:
        took = duration((told["ended"] - told["created"]) / 1000)
        yield f"ended {moment(told['ended'], now)}, {took} after it was created"
    for key, what in _MOMENTS.items():
        if told[key] is not None and not (key == "wake_at" and told["status"] != "waiting"):
            yield f"{what} {moment(told[key], now)}"
    if told["labels"]:
        yield "labels " + ", ".join(f"{plain(name)}={plain(value)}" for name, value in told["labels"].items())
    if told["params"] is not None:
        yield f"params {_value(told['params'])}"
    if told["losses"]:
        yield f"lost {told['losses']} runs in a row without progress"
    if told["postponed"]:
        yield f"put off {told['postponed']} times in a row: its host could not run it"
    if told["undoing"] is not None:
        yield f"takes its steps back for {_error(told['undoing'])}: {plain(told['undone'] or 'not done yet')}"
    if told["events"]:
        types = sorted({plain(event["type"]) for event in told["events"]})
        yield f"{len(told['events'])} events that nobody has waited for, of type {', '.join(types)}"
    if told["status"] == "complete":
        yield f"output {_value(told['output'])}"
    if told["error"] is not None:
        yield f"error {_error(told['error'])}"


def _steps(told: Mapping[str, Any], now: int, outputs: bool) -> Iterator[Row]:
    failures: dict[tuple[Any, Any, Any], list[str]] = {}
    for event in told["history"]:
        if (kind := _ATTEMPTS.get(event["type"])) is not None:
            failures.setdefault((kind, event["stepName"], event["stepCount"]), []).append(_error(event.get("error")))
    for step in told["steps"]:
        started = step["started"] if step["started"] is not None else told["created"]
        ended = step["ended"] if step["ended"] is not None else max(now, started)
        name = plain(step["name"], 40) + (f" ({step['count']})" if step["count"] > 1 else "")
        notes = [_explained(step, now, failures.get((step["kind"], step["name"], step["count"]), []))]
        if step["within"] is not None:
            notes.append("asked for in the body of another step")
        if outputs and step["state"] == "done" and step["kind"] in {"do", "wait", "child", "value"}:
            notes.append(f"came to {_value(step['value'])}")
        note = "; ".join(each for each in notes if each)
        attempts = str(step["attempts"] or "") if step["kind"] in {"do", "undo"} else ""
        yield Row(started / 1000, ended / 1000, name, attempts, note)


def _explained(step: Mapping[str, Any], now: int, failures: list[str]) -> str:
    """What there is to say of a step beside its times."""
    due, over = step["due"], step["state"] in {"done", "failed"}
    match step["kind"], step["state"]:
        case "sleep", _:
            return "slept" if over else f"sleeps until {moment(due, now)}"
        case "wait", "waiting":
            return f"waits for an event of type {plain(step['type'])!r} until {moment(due, now)}"
        case "wait", "done":
            return f"took an event of type {plain(step['type'])!r}"
        case "wait", _:
            return f"no event of type {plain(step['type'])!r} came in time"
        case "child", "waiting":
            return f"awaits an instance until {moment(due, now)}"
        case "child", "done":
            return f"its instance is {plain(step['value'].get('status', 'over'))}"
        case "value", _:
            return "kept for replays"
        case kind, state:
            words = ["takes the step back"] if kind == "undo" else []
            words += [f"{len(failures)} failed: {failures[-1]}"] if failures else []
            if state == "failed" and _error(step["error"]) not in failures[-1:]:
                words.append(f"failed for good: {_error(step['error'])}")
            elif state == "failed":
                words.append("failed for good")
            elif state == "retrying" and step["attempts"]:
                words.append(f"attempt {step['attempts'] + 1} is due {moment(due, now)}")
            elif state == "retrying":
                words.append("has given a sign of life")
            return "; ".join(words)


def _marks(told: Mapping[str, Any]) -> Iterator[Row]:
    before = ""
    for event in told["history"]:
        what = event["type"]
        if not what.startswith("workflow_"):
            continue
        at, mark, note = event["timestamp"] / 1000, _MARKS.get(what, ""), ""
        if what == "workflow_running":
            mark, note = _TAKEN_UP.get(before, ("", ""))
        elif what == "workflow_queued" and not before:
            mark = ""
        if mark:
            yield Row(at, at, mark, note=note, mark="x")
        before = what


def _error(error: Mapping[str, str] | None) -> str:
    return "" if error is None else plain(f"{error['name']}: {error['message']}")


def _value(value: Any) -> str:
    return plain(json.dumps(value, ensure_ascii=False), 200)
