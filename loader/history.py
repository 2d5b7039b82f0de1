"""A run's records as they travel: what a guest is told of what has happened, and what it tells of what did.

Plain lists and maps, in the order that the guest reads them in. No connection, and nothing is asked here.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final

from cloister.engine import ErrorRecord, Journal, Outcome, StepConfig
from cloister.ipc import PayloadError

INLINE: Final = 4 * 1024 * 1024
"""Bytes of recorded values that travel with a run. Of those beyond, the guest asks for the ones it comes to."""
ENDED: Final = frozenset({"done", "failed"})
"""States of a record that stays as it is."""
_SMALL: Final = 64  # bytes for which asking is not worth a round trip


def history(journal: Journal) -> list[Any]:
    """The records as a guest reads them: kind, name, count, state, attempts, value, error, config, enclosing step.

    In place of a value that is to be asked for, or of an error's, stands its size.
    """
    left = INLINE
    shown: list[list[Any]] = []
    for record in journal.history:
        if record.kind == "undo":
            continue
        value: bytes | int | list[int] | None = record.value if record.size is None else [record.size]
        error = plain(record.error)
        size = len(record.value or b"") + sum(len(part.encode()) for part in error or ())
        left -= size
        if left < 0 and size > _SMALL and record.state in ENDED:
            value, error = size, None
        config = config_shown(record.config) if record.config is not None else None
        shown.append(
            [record.kind, record.name, record.count, record.state, record.attempts, value, error, config, record.within]
        )
    return shown


def state(journal: Journal) -> dict[str, Any]:
    """What else a guest is to know of a run. Of steps that were taken back: by what they are called, the error if there
    was one.
    """
    told: dict[str, Any] = {"claims": journal.claims}
    if journal.mail:
        told["mail"] = [list(letter) for letter in journal.mail]
    if journal.supervised:
        told |= {"supervised": True, "frozen": journal.frozen}
    if journal.undoing is not None:
        undone = [record for record in journal.history if record.kind == "undo" and record.state in ENDED]
        told["undoing"] = plain(journal.undoing)
        told["undone"] = {f"{record.count} {record.name}": [plain(record.error)] for record in undone}
    return told


@functools.cache
def resolved() -> dict[str, Any]:
    """The configuration of a step that gives none."""
    return config_shown(StepConfig())


def config_shown(config: StepConfig) -> dict[str, Any]:
    """A step's configuration as the tenant's code would write it."""
    retries: dict[str, Any] = {"limit": config.limit, "delay": config.delay_ms, "backoff": config.backoff}
    if config.dynamic:
        del retries["delay"]
    shown = {"retries": retries, "timeout": config.timeout_ms}
    if config.heartbeat_ms is not None:
        shown["heartbeatTimeout"] = config.heartbeat_ms
    return {**shown, "sensitive": "output"} if config.sensitive else shown


def rare_outcome(outcome: Outcome, more: object, value: bytes, error: object, retryable: object) -> Outcome:
    """The outcome with what few have: of which kind it is, how large a stream, after which delay it is tried again."""
    if not isinstance(more, dict) or more.keys() - {"kind", "size", "delay"}:
        raise PayloadError("what is rarely said of an outcome is its kind, size and delay")
    if error is not None:
        return dataclasses.replace(outcome, error=error_record(error), retryable=bool(retryable), **more)
    return dataclasses.replace(outcome, value=None if more.get("size") is not None else value, **more)


def plain(error: ErrorRecord | None) -> list[str] | None:
    """An error as a guest reads it."""
    return None if error is None else [error.name, error.message, error.trace]


def error_record(error: object) -> ErrorRecord:
    """An error as a guest tells it. `PayloadError`."""
    match error:
        case [str(name), str(message), str(trace)]:
            return ErrorRecord(name, message, trace)
    raise PayloadError("an error is a name, a message and a traceback")
