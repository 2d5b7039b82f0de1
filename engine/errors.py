"""What can go wrong in durable execution, named by the situation and by who can mend it.

The docstring of a class is its default message, and its name where Python was told to drop docstrings. Words about an
instance never tell whether it exists in another scope.
"""

from __future__ import annotations

import builtins
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import ErrorRecord


class EngineError(Exception):
    """Base of everything that this package raises."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else self._words())

    @classmethod
    def _words(cls) -> str:
        return " ".join((cls.__doc__ or re.sub("(?<=[a-z])(?=[A-Z])", " ", cls.__name__)).split())


class EngineClosed(EngineError):
    """The engine is not open, or is closing. Enter it with `async with` and call before it ends."""


class EngineLocked(EngineError):
    """Another live engine owns this database.

    One process at a time may; stop that one, or use another file.
    """


class DatabaseTooNew(EngineError):
    """A newer cloister wrote this database. Upgrade this installation; nothing was changed in the file."""


class NotACloisterDatabase(EngineError):
    """The file is not an engine's database: not SQLite, or another application's.

    Nothing was changed in it.
    """


class CodecMismatch(EngineError):
    """The payloads in the database were not made by the codec that the engine was given. Nothing was changed."""


class StorageError(EngineError):
    """The disk refused to store or read (full, failing, gone).

    Nothing in doubt was acknowledged; free it and repeat.
    """


class CodecFailed(StorageError):
    """The host's codec could not encode a payload, or decode one that is stored. Nothing was stored."""


class DatabaseDamaged(StorageError):
    """The database is damaged: something other than an engine has written to it, or the disk has. Restore a backup."""


class InstanceNotFound(EngineError):
    """No instance of this workflow has this id in this scope.

    Check the id; ids of other scopes are out of reach.
    """


class InstanceAlreadyExists(EngineError):
    """An instance with this id exists in this scope, running or finished. Use `get`, or choose another id."""


class CreationRateExceeded(EngineError):
    """The scope creates instances faster than it may. Try again later: `retry_after_ms` says when, None for never."""

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class QuotaExceeded(EngineError):
    """The scope stores as much as it may. Delete instances that have ended, or have them kept for less long."""


class QueueFull(EngineError):
    """As many instances are queued as may be, and none was created. Create it again when some have begun to run."""


class EventBufferFull(EngineError):
    """As many events wait in the instance as may, and nobody takes them. Send again when some have been waited for."""


class InstanceFinished(EngineError):
    """The instance has ended, and what has ended takes no events and no controls. Create another one."""


class InstanceFailed(EngineError):
    """The instance ended without a result.

    `name` and `message` say what ended it ("Terminated" if someone did), `trace` where: the author's own lines.
    """

    def __init__(self, name: str, message: str, trace: str = "") -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name, self.message, self.trace = name, message, trace


class InvalidInstanceId(EngineError):
    """An id has 1 to 100 letters of a-z and A-Z, digits, `_` or `-`, and does not begin with `-`.

    The caller's mistake.
    """


class InvalidLabels(EngineError):
    """Labels are a dict of at most 16 names, each with one text. The caller's mistake."""


class InvalidRetention(EngineError):
    """A retention is a duration, or a dict of `success_retention` and `error_retention`. The caller's mistake."""


class InvalidSchedule(EngineError):
    """A schedule is a cron expression of five fields and the name of a time zone. The host's mistake."""


class InvalidCursor(EngineError):
    """A cursor is what an earlier answer gave as one, unchanged. The caller's mistake."""


class StepNotFound(EngineError):
    """The instance has no record of this step, so it cannot begin again from there. See the steps in `status()`."""


class InvalidStepName(EngineError):
    """A name (of a step, event type or scope) has at most 256 characters and no control characters."""


class InvalidStepConfig(EngineError):
    """The configuration of a step is not one: the message names the key. The workflow author's mistake."""


class InvalidDuration(EngineError):
    """Not a duration or point in time: milliseconds, text such as "10 seconds", at most 365 days ahead."""


class MomentTooFar(InvalidDuration):
    """A moment to sleep until that was more than 365 days ahead when it was asked for."""


class PayloadTooLarge(EngineError):
    """Params, an event's payload, a step's result or the output exceed 1 MiB.

    Store the bulk elsewhere, pass a name.
    """


class StepLimitExceeded(EngineError):
    """The run has more steps of one kind than an instance may have. Split the work over several instances."""


class JournalBreach(EngineError):
    """A run told its journal what cannot be true; nothing was recorded.

    A bug in, or an attack by, whoever runs it.
    """


class RunOver(EngineError):
    """This run has ended (parked, paused, terminated or lost) and can record nothing more.

    Drop what it was doing.
    """


class RunInterrupted(EngineError):
    """The run was lost with the process that it ran in, through no fault of its own.

    It will be started again.
    """


class RunPostponed(RunInterrupted):
    """The host could not run it now: no code to be had, no room, no process. Nobody's run is at fault.

    It is tried again after a growing delay, for as long as it takes; `at_once` when it was put off only to make room.
    """

    def __init__(self, reason: str, *, at_once: bool = False) -> None:
        super().__init__(reason)
        self.at_once = at_once


class NonDeterminismError(EngineError):
    """The replayed run does not fit its history: recorded steps were not reached.

    The code changed, or is random.
    """


class NonRetryableError(EngineError):
    """Raised by a step body when trying again is pointless: the step fails at once, whatever its retries."""


class StreamError(EngineError):
    """A step's result is a stream that cannot be recorded: it yields something else than bytes."""


class NonRetryableDelayError(EngineError):
    """The function that says how long to wait before the next attempt failed; so the step does, at once."""


class WaitTimeout(EngineError):
    """The event did not come in time. Recorded as the wait's outcome: a replay raises it again."""

    name = "WorkflowTimeoutError"

    def __init__(self, milliseconds: int) -> None:
        self.message = f"Execution timed out after {milliseconds}ms"
        super().__init__(self.message)

    @classmethod
    def again(cls, record: ErrorRecord) -> WaitTimeout:
        """The same error from its record."""
        error = cls(0)
        error.message, error.args = record.message, (record.message,)
        return error


class StepFailed(EngineError):
    """A step failed for good.

    `name` and `message` are those of the error that its last attempt ended with.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name, self.message = name, message


def revive(record: ErrorRecord) -> Exception:
    """The exception that a recorded failure is raised as: the same in the run that saw it and in every
    replay.
    """
    kind = NonRetryableError if record.name == "NonRetryableError" else getattr(builtins, record.name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        quoted = kind is KeyError and record.message[:1] == record.message[-1:] == "'"
        try:
            error = kind(record.message[1:-1] if quoted else record.message)  # its text is its key as it is written
        except TypeError:  # a built-in that wants more than a message
            return StepFailed(record.name, record.message)
        if str(error) == record.message:
            return error
    return StepFailed(record.name, record.message)
