"""Taking back what steps have done, the last one begun first, before a run ends without a result.

Handlers are functions of the tenant's, so a run that was dropped is replayed to find them again: then nothing new
begins, since the host does not answer who asks for it. Not imported by the guest itself: it is kept with the standard
library, for those who ask.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from cloister.ipc import values

from . import failure, scope
from .attempts import by_name, told
from .journal import Journal
from .values import JsDict
from .workers.workflows import NonRetryableError

_STILL: Final = 3
_STUCK: Final = 100
"""Looks in a row at a run that does nothing, after which it has come to rest; the latter if it asks for nothing."""
_LOOK_EVERY: Final = 0.01


def noted(journal: Journal, name: str, count: int, handler: Any, given: Any) -> list[Any]:
    """A step that begins and can be taken back; the last place is for its result."""
    if scope.inside.get() is not None:
        raise NonRetryableError(
            f"step {name!r} is in the body of another one, which no replay runs again, so that nobody could take it"
            " back: give `rollback` to that one"
        )
    journal.undos.append(undo := [name, count, handler, given, None])
    return undo


async def frozen(journal: Journal, run: asyncio.Future[Any]) -> dict[str, Any]:
    """Wait until a replay has ended or come to the end of its records. Then take back what it had done, and raise; or
    say what became of it, if it was only a rehearsal.
    """
    loop, outcomes, still = asyncio.get_running_loop(), journal._outcomes, 0
    while not run.done() and still < (_STILL if journal.run.asking else _STUCK):
        await asyncio.wait({run}, timeout=_LOOK_EVERY)
        rests = journal.run.only_waits(loop) and not outcomes._turning
        still = still + 1 if rests else 0
    if (error := journal.state.get("undoing")) is not None:
        await perform(journal, error)
        raise failure.StepError(error[0], error[1])
    raised = run.exception() if run.done() and not run.cancelled() else None
    words = "{}: {}".format(*told(raised)) if isinstance(raised, Exception) else None
    missed = [list(key) for key in sorted(journal.unvisited)]
    return {"missed": missed, "ended": run.done() and not run.cancelled(), "error": words}


async def perform(journal: Journal, error: list[str]) -> None:
    """Take back each step. The first that cannot be, with its retries, ends it."""
    scope.current_run.set(journal.run)
    missing = sorted(name for kind, name, _ in journal.unvisited if kind == "do" and "undoing" in journal.state)
    words = f"RollbackMissing: the replay did not reach step {missing[0]!r}" if missing else "complete"
    for undo in [] if missing else reversed(journal.undos):
        failed = await _take_back(journal, error, *undo)
        if failed is not None:
            words = "step {!r} number {} was not taken back: {}: {}".format(*undo[:2], *failed)
            break
    await journal.ask("undone", words)


async def failed(journal: Journal, error: Exception) -> None:
    """The run has failed: if there is something to be taken back, that is recorded and done."""
    report = told(error)
    await journal.ask("undo", report)
    await perform(journal, report)


async def _take_back(
    journal: Journal, error: list[str], name: str, count: int, handler: Any, given: Any, output: Any
) -> list[str] | None:
    known = (journal.state.get("undone") or {}).get(f"{count} {name}")
    if known is not None:
        return known[0]  # type: ignore[no-any-return]
    config, settings = await journal.configure(given)
    what = JsDict(
        ctx=JsDict(step=JsDict(name=name, count=count)),
        error=JsDict(name=error[0], message=error[1]),
        output=output,
        step_name=name,
        stepName=name,
    )
    attempt = await journal.ask("attempt", name, count, "undo")
    while True:
        value, report, retryable = values.dumps(None), None, True
        try:
            async with asyncio.timeout(config["timeout"] / 1000):
                await by_name(handler, what)
        except Exception as raised:
            value, report, retryable = b"", told(raised), not isinstance(raised, NonRetryableError)
        more = {"kind": "undo"}
        verdict = await journal.ask("settle", name, count, attempt, settings, value, report, retryable, more)
        if verdict[0] != "retry":
            return verdict[1]  # type: ignore[no-any-return]
        attempt = await journal.ask("attempt", name, count, "undo")
