"""The durable side of one live run: checks what the run says, and has it recorded.

How what is said is written, and waited for, is the recorder's business.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any, Final, Literal

from .errors import (
    EngineError,
    JournalBreach,
    PayloadTooLarge,
    QuotaExceeded,
    StepLimitExceeded,
)
from .recorder import Known
from .records import (
    DEFAULT_CONFIG,
    ErrorRecord,
    Key,
    Outcome,
    PinnedCode,
    StepConfig,
    StepKind,
    Verdict,
)
from .retry import judge
from .rules import (
    MAX_CODE,
    MAX_DETAILS,
    bounded_error,
    brief,
    check_outcome,
    check_size,
    check_within,
    is_result,
    step_config,
)
from .store import codes, steps, undoing
from .waits import Waits
from .writes import PromptWrite

if TYPE_CHECKING:
    from collections.abc import Callable

_VERDICTS: Final[dict[str, Literal["done", "retry", "failed"]]] = {
    "done": "done",
    "retrying": "retry",
    "failed": "failed",
}


_DONE: Final = Verdict("done")
_RESULT: Final = Known("done", 1, None, DEFAULT_CONFIG)
"""What is known of a step that came to its result at once."""


class LiveJournal(Waits):
    """See `Journal` in `protocol` for what each public method promises."""

    __slots__ = ()

    # Code

    def pin(self, digest: bytes, code: bytes, *, anew: bool = False) -> None:
        self._check_open()
        if not isinstance(digest, bytes) or not 1 <= len(digest) <= 64:
            raise JournalBreach("the digest of the code is not 1 to 64 bytes")
        if not isinstance(code, bytes) or len(code) > MAX_CODE:
            raise JournalBreach(f"the code is not bytes, or more than {MAX_CODE:,} of them")
        if self.code_digest not in {None, digest} and not anew:
            raise JournalBreach("the instance is tied to other code already")
        if self.code_digest != digest and not self.frozen:
            self.code_digest = digest
            self._writer.submit_unhurried(self._not_stored, codes.pin, self._number, PinnedCode(digest, code))

    def rehearsal(self) -> LiveJournal:
        """The same history, on which nothing can be recorded, tied to no code."""
        claim = self._claim._replace(code_digest=None)
        return LiveJournal(claim, self._host, writer=self._writer, clock=self._clock, linger=self._linger, frozen=True)

    async def pinned_code(self) -> bytes:
        self._check_open()
        return await self._writer.submit(codes.pinned, self._number)

    # Steps

    async def configure(self, config: object) -> StepConfig:
        return step_config(config)

    def started(self, name: str, count: int, attempt: int, kind: StepKind = "do") -> None:
        key = self._key(kind, name, count)
        expected = self._next_attempt(key)
        if attempt != expected:
            raise JournalBreach(f"step {name!r} is at attempt {expected}, not {attempt!r:.20}")
        if len(self._running) >= self._most_steps:
            raise StepLimitExceeded(f"a run may have {self._most_steps:,} steps in progress")
        self._beginning(key, self._clock.now())
        self._activity += 1

    def stopped(self, name: str, count: int) -> None:
        self._check_open()
        if self._running.pop(("do", name, count), None) is not None:
            self._stir()

    async def begin(self, name: str, count: int) -> Outcome | None:
        key = self._key("do", name, count)
        if self.frozen:
            await self._refuse()
        if self._mocks is None:
            return None
        known = self._known.get(key)
        config, attempt = known.config if known else StepConfig(), self._next_attempt(key)
        outcome = self._mocks.outcome(name, count, attempt, config)
        if outcome is not None and outcome.size is not None:
            for number, piece in enumerate(self._mocks.pieces(name, count)):
                await self.put_chunk(name, count, attempt, number, piece)
        return outcome

    async def attempt(self, name: str, count: int, kind: StepKind = "do") -> int:
        key = self._key(kind if kind == "undo" else "do", name, count)
        if self.frozen and not (self.undoing is not None and key[0] == "undo"):
            await self._refuse()
        attempt = self._next_attempt(key)
        with self._occupy(key):
            if (known := self._known.get(key)) is not None and known.due is not None:
                await self._until(key, known)
            await self._held()
        self.started(name, count, attempt, key[0])
        return attempt

    def _next_attempt(self, key: Key) -> int:
        known = self._known.get(key)
        if known is None:
            return 1
        if known.state != "retrying":
            raise JournalBreach(f"step {key[1]!r} number {key[2]} has its outcome already ({known.state})")
        return known.attempts + 1

    async def settle(self, outcome: Outcome) -> Verdict:
        outcome = check_outcome(outcome)
        key = self._checked(outcome.kind, outcome.name, outcome.count)
        if outcome.attempt != 1 or key in self._known:
            self._check_attempt(key, outcome.attempt)
        if self.frozen and not (self.undoing is not None and key[0] == "undo"):
            await self._refuse()
        now = self._clock.now()
        known = self._known.get(key)
        config = known.config if known is not None else outcome.config or DEFAULT_CONFIG
        if outcome.size is not None:
            self._room.check_whole(key, outcome.attempt, outcome.size)
        if outcome.error is not None:
            outcome = dataclasses.replace(outcome, error=bounded_error(outcome.error))
        verdict = judge(outcome, config, now)
        if self._mocks is not None and self._mocks.skip_retry_delays and verdict.due is not None:
            verdict = verdict._replace(due=now)
        error = None if verdict.error is None else bounded_error(verdict.error)
        began = self._running.get(key)
        if began is not None and outcome.attempt > 1:
            self._announce(key, began)  # of the first one, the step's own record says when it began
        try:
            if self._room.end(key) and error is not None:
                self._writer.submit(steps.drop_chunks, self._number, *key[1:]).add_done_callback(self._check_stored)
            row = Known(verdict.state, outcome.attempt, verdict.due, config)
            more: dict[str, Any] = {"now": now, "began": began, "within": outcome.within}
            try:
                await self._record(key, row, outcome.value, error, size=outcome.size, **more)
            except QuotaExceeded:
                if error is None or verdict.state != "failed":
                    raise
                error = brief(error)  # that it has failed is on record whatever else has no room
                try:
                    await self._record(key, row, None, error, **more)
                except QuotaExceeded as refusal:
                    if key[0] == "undo":
                        raise
                    await self._fail(refusal)
        finally:
            self._running.pop(key, None)
            if self._announced is not None:
                self._announced.discard((key, outcome.attempt))
            self._stir()
        if not self._next:
            await self._turn(key)
        return _DONE if verdict.state == "done" else Verdict(_VERDICTS[verdict.state], error)

    def record_result(
        self, name: str, count: int, value: bytes, within: str | None, told: Callable[[BaseException | None], object]
    ) -> bool:
        key: Key = ("do", name, count)
        if self.over is not None or self.frozen or self._mocks is not None or not is_result(name, count, value, within):
            return False
        known, size, of_kind = self._known, len(value), self._of_kind
        if key in known or of_kind["do"] >= self._most_steps or not self._room.took(size):
            return False
        now, position = self._clock.now(), len(known)
        started, began, _ = self._running.get(key) or (now, position, 1)
        write = PromptWrite(self, self._result_recorded, True, (key, _RESULT, None, size))
        write.waiter = told
        row = self._number, name, count, position, value, within, started, began
        try:
            self._writer.submit_for(write, steps.record_result, now, *row)
        except BaseException:
            self._room.give_back(size)
            raise
        self._writes += 1
        of_kind["do"] += 1
        known[key] = _RESULT
        return True

    def _result_recorded(self, write: PromptWrite, error: BaseException | None) -> None:
        key: Key = write.replaces[0]
        if self._running:
            self._running.pop(key, None)
        if self._announced is not None:
            self._announced.discard((key, 1))
        self._stir()
        if error is None and not self._next:
            self._return_soon(key, write.waiter)
        else:
            write.waiter(error)

    def _return_soon(self, key: Key, told: Callable[[BaseException | None], object]) -> None:
        self._turns.join(key)
        self._returning.add(task := asyncio.ensure_future(self._return(key, told)))
        task.add_done_callback(self._returning.discard)

    async def _return(self, key: Key, told: Callable[[BaseException | None], object]) -> None:
        """Tell it when all that was recorded before has returned to the run; what comes after it waits until it has
        been told, which takes a turn.
        """
        try:
            await self._come(key)
            told(None)
            await asyncio.sleep(0)
        except EngineError as error:
            told(error)
        finally:
            self._left(key)

    def _check_attempt(self, key: Key, attempt: object) -> None:
        expected = self._next_attempt(key)
        if attempt != expected:
            raise JournalBreach(f"step {key[1]!r} is at attempt {expected}, not {attempt!r:.20}")

    async def beat(self, name: str, count: int, attempt: int, details: bytes, config: StepConfig | None) -> bool:
        key = self._key("do", name, count)
        self._check_attempt(key, attempt)
        if len(check_size(details, "what a heartbeat says")) > MAX_DETAILS:
            raise PayloadTooLarge(f"a heartbeat says at most {MAX_DETAILS:,} bytes, not {len(details):,}")
        if self.frozen:
            await self._refuse()
        known = self._known.get(key)
        now = self._clock.now()
        row = Known("retrying", attempt - 1, now, known.config if known is not None else config or StepConfig())
        began = self._beginning(key, now)
        # No progress: a step that takes its process down with it may well give signs of life before.
        await self._record(key, row, details, began=began, progress=False)
        return self._gate is None

    # Results in pieces, and values

    async def put_chunk(self, name: str, count: int, attempt: int, number: int, data: bytes) -> None:
        key = self._key("do", name, count)
        self._check_attempt(key, attempt)
        if self.frozen:
            await self._refuse()
        self._room.add(key, attempt, number, data)
        self._beginning(key, self._clock.now())
        await self._write(steps.put_chunk, self._number, name, count, number, data, progress=False)

    async def chunk(self, name: str, count: int, number: int) -> bytes | None:
        key = self._key("do", name, count)
        if type(number) is not int or not 0 <= number < 2**31:
            raise JournalBreach(f"{number!r:.40} is no number of a chunk")
        return await self._write(steps.chunk, self._number, key[1], key[2], number, progress=False)

    async def keep(self, name: str, count: int, value: bytes, within: str | None = None) -> None:
        check_within(within)
        key = self._key("value", name, count)
        if key in self._known:
            raise JournalBreach(f"value {name!r} number {count} is recorded already")
        check_size(value, f"value {name!r}")
        if self.frozen:
            await self._refuse()
        try:
            await self._record(key, Known("done", 1, None, DEFAULT_CONFIG), value, within=within)
        except QuotaExceeded as refusal:
            await self._deny(key, refusal, within)
            raise
        await self._turn(key)

    # Taking back

    async def undo(self, error: ErrorRecord) -> None:
        self._check_open()
        if self.frozen and self.undoing is None:
            await self._refuse()
        if self.undoing is None:
            self.undoing, self.frozen, self.supervised = bounded_error(error), True, True
            await self._write(undoing.undo, self._number, self.undoing, self._clock.now())

    async def undone(self, words: str) -> None:
        self._check_open()
        told = bounded_error(ErrorRecord("", words)).message
        await self._write(undoing.undone, self._number, told, self._clock.now())
