"""Where an instance stands, in the words that a host reads: made of what is recorded of it, and of what is known in
memory of the steps that it is at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .records import FINAL, Encoded, ErrorRecord, Key, Status, StepKind


def standing(
    instance: tuple[Any, ...],
    rows: Sequence[tuple[Any, ...]],
    before: Mapping[Key, int],
    now: Mapping[Key, int],
    trouble: str | None,
) -> dict[str, Any]:
    """What `Instance.status` gives, with the output as `Encoded`. `before` and `now` are the steps in progress, and
    since when, as seen before the record was read and after that: what is in both went on while it was read.
    """
    status, output, error, run_number, created, started, ended, *rest = instance
    wake_at, paused_at, expires, undoing, undone, labels = rest
    over = status in FINAL
    running = set() if over else {key for key, _ in before.items() & now.items()}
    steps = [_step(*row, running=running) for row in rows]
    recorded = {(kind, name, count) for kind, name, count, *_ in rows}
    begun = {} if over else {key: since for key, since in before.items() if key not in recorded}
    steps += [_step(*key, "running", 1, since, None, None, running=set()) for key, since in begun.items()]
    return {
        "status": status,
        "output": None if output is None else Encoded(output),
        "error": plain_error(error),
        "trouble": None if over else trouble,
        "run": run_number,
        "created": created,
        "started": started,
        "ended": ended,
        "rollback": undone or ("running" if undoing is not None else None),
        "wakes": wake_at if status == Status.WAITING else None,
        "paused": paused_at,
        "expires": expires,
        "labels": labels,
        "steps": steps,
    }


def plain_error(error: ErrorRecord | None) -> dict[str, str] | None:
    """An error by its name and message."""
    return None if error is None else {"name": error.name, "message": error.message}


def _step(
    kind: StepKind,
    name: str,
    count: int,
    state: str,
    attempts: int,
    started: int | None,
    ended: int | None,
    error: ErrorRecord | None,
    *,
    running: set[Key],
) -> dict[str, Any]:
    """One entry of a status. A retrying step whose next attempt is in progress is running."""
    if state == "retrying" and (kind, name, count) in running:
        state, attempts = "running", attempts + 1
    return {
        "kind": kind,
        "name": name,
        "count": count,
        "status": state,
        "attempts": attempts,
        "started": started,
        "ended": ended,
        "error": plain_error(error),
    }
