"""A history replayed against code before that code is let loose on it: nothing runs, nothing is recorded.

What a replay asks for beyond its records is not answered; when it has come to rest, it is seen whether it came by
everything that is recorded.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.ipc import values

from .entrypoint import WorkflowEntrypoint
from .errors import RunInterrupted
from .journal import LiveJournal
from .keeper import NOBODY
from .records import Encoded, Key, WorkflowContext, WorkflowEvent
from .rollback import replayed
from .rules import describe
from .step import WorkflowStep

if TYPE_CHECKING:
    from .clock import Clock
    from .records import Claim
    from .writer import Writer

PATIENCE_SECONDS = 30.0
"""How long a replay may take to come to rest, in real time."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What became of the replay. `fits` if the instance can go on with this code."""

    fits: bool
    missed: tuple[Key, ...] = ()
    """Recorded steps that the code did not come to: kind, name and count."""
    ended: bool = False
    """The run came to its end, instead of asking for something new."""
    error: str | None = None
    """What it ended with, if that was an error."""

    @property
    def words(self) -> str:
        """The same for a log."""
        if self.missed:
            kind, name, count = self.missed[0]
            return f"it does not come to {kind} {name!r} number {count}, which is recorded ({len(self.missed)} such)"
        how = f"it ends with {self.error}" if self.error else "it ends" if self.ended else "it asks for something new"
        return how if self.fits else f"it does not fit: {how}"

    @classmethod
    def read(cls, report: Encoded) -> Rehearsal:
        """What whoever runs workflows elsewhere says of a replay: the map `{missed, ended, error}`. Where it is none,
        nothing is known to fit."""
        match values.loads(report.data):
            case {"missed": list(missed), "ended": bool(ended), "error": None | str() as error} if all(
                isinstance(key, list) and list(map(type, key)) == [str, str, int] for key in missed
            ):
                return _judged(tuple(sorted((kind, name, count) for kind, name, count in missed)), ended, error)
        return cls(False, error="a report of its replay that cannot be read")


def frozen(claim: Claim, writer: Writer, clock: Clock) -> LiveJournal:
    """A journal with this history, on which nothing new can be recorded, and which is tied to no code."""
    claim = claim._replace(code_digest=None)
    return LiveJournal(claim, NOBODY, writer=writer, clock=clock, linger=0.05, frozen=True)


async def rehearse(
    claim: Claim, entrypoint: type[WorkflowEntrypoint], env: Any, writer: Writer, clock: Clock
) -> Rehearsal:
    """Replay a history with this class. `TimeoutError` if it does not come to rest."""
    journal = frozen(claim, writer, clock)
    address = claim.address
    created = dt.datetime.fromtimestamp(claim.created / 1000, dt.UTC)
    event = WorkflowEvent(claim.params, created, address.id, address.workflow, claim.schedule)
    step = WorkflowStep(journal, clock)
    course = step.course
    context = WorkflowContext(*address, claim.run, None)
    run = course.begin(entrypoint(context, env).run(event, step))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await replayed(run, journal, course.unvisited)
            if course.elsewhere:
                return Rehearsal.read(await run)
    except RunInterrupted:
        raise
    except Exception as error:
        if isinstance(error, TimeoutError):
            raise
        return Rehearsal(False, (), True, _words(error))
    finally:
        journal.close("the rehearsal is over")
        run.cancel()
        await asyncio.wait({run})
        raised = None if run.cancelled() else run.exception()
    return _judged(
        tuple(sorted(course.unvisited)), run.done() and not run.cancelled(), None if raised is None else _words(raised)
    )


def _judged(missed: tuple[Key, ...], ended: bool, error: str | None) -> Rehearsal:
    drifted = error is not None and error.startswith("NonDeterminismError")
    return Rehearsal(not missed and not drifted, missed, ended, error)


def _words(error: BaseException) -> str:
    record = describe(error)
    return f"{record.name}: {record.message}"
