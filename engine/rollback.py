"""Taking back what steps have done, the last one begun first: what a workflow does before it ends without a result.

It knows which steps can be taken back, and how; when that is to happen is said by whoever runs the workflow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.ipc import values

from . import authors
from .records import ErrorRecord, Key, Outcome, StepConfig
from .rules import describe

if TYPE_CHECKING:
    from .clock import Clock
    from .protocol import Journal
    from .records import StepRecord

_TURNS = 50
"""Turns of the loop without news, after which a replay that may begin nothing new has come to rest."""


@dataclass(frozen=True, slots=True)
class Undo:
    """How one step is taken back."""

    name: str
    count: int
    handler: authors.Function
    config: object
    context: Any


class Rollback:
    """The steps of one run that can be taken back, in the order in which they were begun."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._begun: list[Undo] = []
        self._outputs: dict[tuple[str, int], Any] = {}

    def __bool__(self) -> bool:
        return bool(self._begun)

    def begun(self, undo: Undo) -> None:
        """A step is reached, so that it may have done something."""
        self._begun.append(undo)

    def succeeded(self, name: str, count: int, output: Any) -> None:
        """What a step that can be taken back has returned."""
        self._outputs[name, count] = output

    async def run(self, error: ErrorRecord, recorded: Mapping[Key, StepRecord], left: Collection[Key]) -> None:
        """Take back each step. The first that cannot be, with its retries, ends it; so do steps that were not reached
        again (`left`), since it is not known how they are taken back.
        """
        if missing := sorted(name for kind, name, _ in left if kind == "do"):
            await self._journal.undone(f"RollbackMissing: the replay did not reach step {missing[0]!r}")
            return
        for undo in reversed(self._begun):
            failure = await self._take_back(undo, error, recorded.get(("undo", undo.name, undo.count)))
            if failure is not None:
                words = f"step {undo.name!r} number {undo.count} was not taken back: {failure.name}: {failure.message}"
                await self._journal.undone(words)
                return
        await self._journal.undone("complete")

    async def _take_back(self, undo: Undo, error: ErrorRecord, record: StepRecord | None) -> ErrorRecord | None:
        journal, name, count = self._journal, undo.name, undo.count
        if record is not None and record.state in {"done", "failed"}:
            return record.error if record.state == "failed" else None
        config = await journal.configure(undo.config)
        attempt = await journal.attempt(name, count, "undo")
        while True:
            verdict = await journal.settle(await self._attempt(undo, error, attempt, config))
            if verdict.state != "retry":
                return verdict.error
            attempt = await journal.attempt(name, count, "undo")

    async def _attempt(self, undo: Undo, error: ErrorRecord, attempt: int, config: StepConfig) -> Outcome:
        given = {
            "ctx": undo.context,
            "error": error,
            "output": self._outputs.get((undo.name, undo.count)),
            "step_name": undo.name,
        }
        try:
            async with authors.limited(self._clock, config.timeout_ms / 1000):
                await authors.by_name(undo.handler, given)
        except authors.TooLong:
            failure = ErrorRecord("WorkflowTimeoutError", f"Execution timed out after {config.timeout_ms}ms")
        except Exception as raised:  # noqa: BLE001 - whatever a handler raises is how the attempt ended
            failure = describe(raised)
        else:
            return Outcome(undo.name, undo.count, attempt, config, values.dumps(None), kind="undo")
        hopeless = failure.name == "NonRetryableError"
        return Outcome(undo.name, undo.count, attempt, config, None, failure, not hopeless, kind="undo")


async def replayed(run: asyncio.Future[Any], journal: Journal, left: set[Key]) -> None:
    """Wait until a run that may begin nothing new has ended, or has come to the end of its records."""
    refused = asyncio.ensure_future(journal.refused.wait())
    try:
        await asyncio.wait({run, refused}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        refused.cancel()
    still, seen = 0, len(left)
    while not run.done() and still < _TURNS:
        await asyncio.sleep(0)
        still, seen = (still + 1, seen) if len(left) == seen else (0, len(left))
