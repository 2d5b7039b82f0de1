"""The durable side of one live run: checks what the run says, records it, and keeps the run's waits.

It also knows when the run can only wait. Whatever the run was told in memory is decided before it is queued
to be written, in order, so that memory and database cannot disagree: if a write fails the run is lost and
this journal shut. It knows neither tasks nor processes; what is to happen to the run it says to its `host`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeVar, get_args

from . import store_children
from .clock import Clock, Timer, resolve
from .durations import LONGEST_MS, milliseconds, moment
from .errors import (
    InstanceAlreadyExists,
    InvalidDuration,
    JournalBreach,
    PayloadTooLarge,
    RunOver,
    StepLimitExceeded,
    StorageError,
    WaitTimeout,
)
from .records import (
    DEFAULT_CONFIG,
    Claim,
    ErrorRecord,
    EventRecord,
    Key,
    Outcome,
    StepConfig,
    StepKind,
    StepState,
    Verdict,
)
from .retry import judge
from .room import Room
from .rules import (
    MAX_CODE,
    MAX_DETAILS,
    MAX_STEPS,
    bounded_error,
    check_count,
    check_name,
    check_outcome,
    check_size,
    check_within,
    step_config,
)
from .store import Store, pack_config, pack_error
from .store_children import Child
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .mocks import Mocks
    from .writer import Writer

DEFAULT_WAIT = "24 hours"
_VERDICTS: Final[dict[str, Literal["done", "retry", "failed"]]] = {
    "done": "done",
    "retrying": "retry",
    "failed": "failed",
}
PATIENCE = 5.0
"""Seconds that the outcomes behind an event wait for a run that is on its way to ask for it."""

T = TypeVar("T")


class JournalHost(Protocol):
    """Whoever keeps the run."""

    def on_parkable(self, waits: tuple[Key, ...]) -> None:
        """The run can only wait, and has done nothing else for a while."""

    def on_drained(self) -> None:
        """The steps in flight when the drain began have ended."""

    def on_lost(self, reason: str) -> None:
        """Something could not be recorded."""


class _Known(NamedTuple):
    state: StepState
    attempts: int
    due: int | None
    config: StepConfig


async def _always() -> bool:
    return True


class LiveJournal:
    """See `Journal` in `records` for what each public method promises."""

    def __init__(
        self,
        claim: Claim,
        host: JournalHost,
        *,
        writer: Writer,
        clock: Clock,
        linger: float,
        frozen: bool = False,
        mocks: Mocks | None = None,
        steps: int = MAX_STEPS,
    ) -> None:
        self.workflow_name, self.scope, self.instance_id = claim.address
        self.run = claim.run
        self.history = claim.history
        self.code_digest = claim.code_digest
        self.claims = claim.claims
        self.undoing = claim.undoing
        self._mocks, self._most_steps = mocks, steps
        self.frozen = frozen or claim.undoing is not None
        self.supervised = self.frozen or mocks is not None
        self._claim = claim
        self._number = claim.number
        self._host, self._writer, self._clock, self._linger = host, writer, clock, linger
        self._known: dict[Key, _Known] = {}
        self._of_kind = dict.fromkeys(get_args(StepKind), 0)
        self._room = Room(claim.history)
        for record in claim.history:
            known = _Known(record.state, record.attempts, record.due_ms, record.config or DEFAULT_CONFIG)
            self._known[record.kind, record.name, record.count] = known
            self._of_kind[record.kind] += 1
        self._running: dict[Key, int] = {}
        self.refused = asyncio.Event()
        self._refused: set[asyncio.Future[None]] = set()
        self._occupied: set[Key] = set()
        self._waits: dict[Key, tuple[int, asyncio.Future[bytes | None]]] = {}
        self._arrived: dict[Key, bytes] = {}
        self._turns = Turns()
        self._writes = self._activity = 0
        self._linger_timer: Timer | None = None
        self._gate: asyncio.Event | None = None
        self._asking: asyncio.Future[None] | None = None
        self.only_waits: Callable[[], Awaitable[bool]] = _always
        self.over: str | None = None
        self.progressed = False

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
            self._writer.submit(Store.pin, self._number, digest, code).add_done_callback(self._check_stored)

    def _check_stored(self, write: asyncio.Future[Any]) -> None:
        if not write.cancelled() and (error := write.exception()) is not None:
            self._host.on_lost(str(error))

    def rehearsal(self) -> LiveJournal:
        """The same history, on which nothing can be recorded, tied to no code."""
        claim = dataclasses.replace(self._claim, code_digest=None)
        return LiveJournal(claim, self._host, writer=self._writer, clock=self._clock, linger=self._linger, frozen=True)

    async def pinned_code(self) -> bytes:
        self._check_open()
        return await self._writer.submit(Store.code, self._number)

    def running(self) -> dict[Key, int]:
        """The steps in progress, and when the attempt began."""
        return dict(self._running)

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
        self._running.setdefault(key, self._clock.now())
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
        return self._mocks.outcome(name, count, self._next_attempt(key), known.config if known else StepConfig())

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
        started = self._running.get(key, now)
        try:
            if self._room.end(key) and error is not None:
                self._writer.submit(Store.drop_chunks, self._number, *key[1:]).add_done_callback(self._check_stored)
            row = _Known(verdict.state, outcome.attempt, verdict.due, config)
            await self._record(
                key, row, outcome.value, error, started=started, within=outcome.within, size=outcome.size
            )
        finally:
            self._running.pop(key, None)
            self._stir()
        await self._turn(key)
        return Verdict(_VERDICTS[verdict.state], error)

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
        row = _Known("retrying", attempt - 1, now, known.config if known is not None else config or StepConfig())
        since = self._running.setdefault(key, now)
        # No progress: a step that takes its process down with it may well give signs of life before.
        await self._record(key, row, details, started=since, progress=False)
        return self._gate is None

    # Results in pieces, and values

    async def put_chunk(self, name: str, count: int, attempt: int, number: int, data: bytes) -> None:
        key = self._key("do", name, count)
        self._check_attempt(key, attempt)
        if self.frozen:
            await self._refuse()
        self._room.add(key, attempt, number, data)
        self._running.setdefault(key, self._clock.now())
        await self._write(Store.put_chunk, self._number, name, count, number, data, progress=False)

    async def chunk(self, name: str, count: int, number: int) -> bytes | None:
        key = self._key("do", name, count)
        if type(number) is not int or not 0 <= number < 2**31:
            raise JournalBreach(f"{number!r:.40} is no number of a chunk")
        return await self._write(Store.chunk, self._number, key[1], key[2], number, progress=False)

    async def keep(self, name: str, count: int, value: bytes, within: str | None = None) -> None:
        check_within(within)
        key = self._key("value", name, count)
        if key in self._known:
            raise JournalBreach(f"value {name!r} number {count} is recorded already")
        check_size(value, f"value {name!r}")
        if self.frozen:
            await self._refuse()
        await self._record(key, _Known("done", 1, None, DEFAULT_CONFIG), value, within=within)
        await self._turn(key)

    # Taking back

    async def undo(self, error: ErrorRecord) -> None:
        self._check_open()
        if self.frozen and self.undoing is None:
            await self._refuse()
        if self.undoing is None:
            self.undoing, self.frozen, self.supervised = bounded_error(error), True, True
            await self._write(Store.undo, self._number, self.undoing)

    async def undone(self, words: str) -> None:
        self._check_open()
        await self._write(Store.undone, self._number, bounded_error(ErrorRecord("", words)).message)

    async def _refuse(self) -> None:
        """A run that takes its steps back does nothing else; who asks for more is not answered."""
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refused.add(never)
        self.refused.set()
        try:
            await never
        finally:
            self._refused.discard(never)

    async def sleep(
        self, name: str, count: int, *, duration: object = None, until: object = None, within: str | None = None
    ) -> None:
        check_within(within)
        key = self._key("sleep", name, count)
        known = self._known.get(key)
        if known is not None and known.state == "done":
            return
        if self.frozen:
            await self._refuse()
        with self._occupy(key):
            await self._held()
            if known is None:
                now = self._clock.now()
                if (duration is None) == (until is None):
                    raise InvalidDuration(f"sleep {name!r} takes either a duration or a moment to sleep until")
                due = now + milliseconds(duration) if until is None else moment(until, now)
                if self._mocks is not None and self._mocks.skip_sleeps:
                    due = now
                known = _Known("waiting" if due > now else "done", 0, due, DEFAULT_CONFIG)
                await self._record(key, known, within=within)
            if known.state == "waiting":
                await self._until(key, known)
                await self._record(key, known._replace(state="done"))
            await self._turn(key)

    async def wait_for_event(
        self,
        name: str,
        count: int,
        type: str,  # noqa: A002
        timeout: object = None,
        *,
        within: str | None = None,
    ) -> EventRecord:
        check_within(within)
        key = self._key("wait", name, count)
        check_name(type, what="event type")
        allowed = milliseconds(DEFAULT_WAIT if timeout is None else timeout, what="timeout")
        known = self._known.get(key)
        if self.frozen and (known is None or known.state == "waiting"):
            await self._refuse()
        with self._occupy(key):
            await self._held()
            known = self._known.get(key)
            if known is not None and known.state != "waiting":
                return self._outcome_of_wait(key)
            event: bytes | None = None
            if known is None:
                now = self._clock.now()
                known = _Known("waiting", 0, now + allowed, DEFAULT_CONFIG)
                if self._mocks is not None and (told := self._mocks.wait(name, type, now, allowed)) is not None:
                    return await self._mocked(key, known, told, within)
                event = await self._write(Store.take_event, *self._place(key, known), type, within, known.due or 0, now)
            if event is None:
                event = await self._until(key, known)
            if event is None:
                event = await self._expire(key, allowed)
            self._known[key] = known._replace(state="failed" if event is None else "done")
            await self._turn(key)
        if event is None:
            raise WaitTimeout(allowed)
        return EventRecord.decode(event)

    async def _mocked(
        self, key: Key, known: _Known, told: EventRecord | WaitTimeout, within: str | None
    ) -> EventRecord:
        if isinstance(told, EventRecord):
            await self._record(key, known._replace(state="done"), told.encode(), within=within)
            await self._turn(key)
            return told
        error = ErrorRecord(told.name, told.message)
        await self._record(key, known._replace(state="failed"), error=error, within=within)
        await self._turn(key)
        raise told

    async def _expire(self, key: Key, allowed: int) -> bytes | None:
        """Record the timeout; the event, if one was recorded first."""
        error = ErrorRecord(WaitTimeout.name, str(WaitTimeout(allowed)))
        return await self._write(Store.expire, self._number, key[1], key[2], error, self._clock.now())

    def _outcome_of_wait(self, key: Key) -> EventRecord:
        """What an earlier run recorded, for a caller that asks instead of reading the history."""
        for record in self.history:
            if (record.kind, record.name, record.count) == key:
                if record.error is not None:
                    raise WaitTimeout.again(record.error)
                assert record.value is not None
                return EventRecord.decode(record.value)
        raise JournalBreach(f"wait {key[1]!r} number {key[2]} has been answered in this run already")

    async def child(
        self, name: str, count: int, child: Child, timeout: object = None, within: str | None = None
    ) -> bytes:
        check_within(within)
        key = self._key("child", name, count)
        allowed = LONGEST_MS if timeout is None else milliseconds(timeout, what="timeout")
        if self.frozen:
            await self._refuse()
        with self._occupy(key):
            await self._held()
            known = self._known.get(key)
            if known is None:
                now = self._clock.now()
                known = _Known("waiting", 0, now + allowed, DEFAULT_CONFIG)
                row = (name, count, len(self._known), now + allowed, within)
                try:
                    await self._write(store_children.begin, self._number, row, child, now)
                except InstanceAlreadyExists as error:
                    refusal = ErrorRecord(type(error).__name__, str(error))
                    await self._record(key, known._replace(state="failed"), error=refusal, within=within)
                    await self._turn(key)
                    raise
                self._place(key, known)
            elif known.state != "waiting":
                raise JournalBreach(f"child {name!r} number {count} has been answered already")
            value = await self._until(key, known)
            if value is None:
                late = ErrorRecord(WaitTimeout.name, str(WaitTimeout(allowed)))
                value = await self._give_up(name, count, late)
            self._known[key] = known._replace(state="done")
            await self._turn(key)
        return value

    async def give_up(self, name: str, count: int) -> None:
        self._key("child", name, count)
        await self._give_up(name, count, store_children.GIVEN_UP)

    async def _give_up(self, name: str, count: int, error: ErrorRecord) -> bytes:
        now = self._clock.now()
        value = await self._write(store_children.give_up, self._number, name, count, error, now)
        if value is None:
            raise JournalBreach(f"there is no child {name!r} number {count}")
        return value

    @property
    def childless(self) -> bool:
        """Whether the run has begun no instance that it awaits."""
        return not self._of_kind["child"]

    def deliver(self, name: str, count: int, event: bytes, kind: StepKind = "wait") -> None:
        """An event was recorded as this wait's outcome, or how an awaited instance ended."""
        key: Key = (kind, name, count)
        self._turns.join(key)
        if key in self._waits:
            future = self._waits[key][1]
            if not future.done():
                future.set_result(event)
                return
        self._arrived[key] = event
        if key not in self._occupied:  # the run has yet to come to it; if it does not, others must not wait for ever
            self._clock.call_later(PATIENCE, lambda: None if key in self._occupied else self._turns.leave(key))

    # Order

    async def _turn(self, key: Key) -> None:
        """Return to the run after every outcome that was recorded before this one."""
        if not self._turns and self._gate is None and self._mocks is None:
            return
        try:
            await self._turns.come(key, self._check_open)
            await self._held()
        finally:
            self._turns.leave(key)
        if self._mocks is not None and self._mocks.evict:
            self._host.on_drained()
            self._check_open()

    # Waiting

    async def _until(self, key: Key, known: _Known) -> bytes | None:
        """Wait in memory for the deadline of a recorded step, or for the event that ends it sooner."""
        if (event := self._arrived.pop(key, None)) is not None:
            return event
        due = known.due or 0
        if due <= self._clock.now():
            return None
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_at(due, lambda: resolve(future))
        self._waits[key] = (due, future)
        self._stir()
        try:
            return await future
        finally:
            timer.cancel()
            del self._waits[key]
            self._stir()

    def _stir(self) -> None:
        """Something happened: see whether the drain is over, or whether the run can only wait from now on."""
        self._activity += 1
        if self.over is not None or self._running or self._writes:
            return
        if self._gate is not None:
            self._host.on_drained()
        elif self._waits and self._linger_timer is None:
            seen = self._activity
            self._linger_timer = self._clock.call_later(self._linger, lambda: self._lingered(seen))

    def _lingered(self, seen: int) -> None:
        self._linger_timer = None
        if self.over is not None or self._running or self._writes or not self._waits:
            return
        nearest = min(due for due, _ in self._waits.values())
        if self._activity != seen:
            self._stir()
        elif nearest - self._clock.now() > self._linger * 1000:
            self._asking = asyncio.ensure_future(self._park(seen))

    async def _park(self, seen: int) -> None:
        """Ask whoever runs the program whether it really only waits, and have it put aside if nothing came between."""
        idle = await self.only_waits()
        if self.over is not None or self._running or self._writes or not self._waits:
            return
        if idle and self._activity == seen:
            self._host.on_parkable(tuple(self._waits))
        else:
            self._stir()

    async def _held(self) -> None:
        """While the run is being drained nothing returns to it, so that it begins nothing new."""
        if self._gate is not None:
            self._stir()
            await self._gate.wait()
            self._check_open()

    def drain(self) -> None:
        if self._gate is None and self.over is None:
            self._gate = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._stir)

    def undrain(self) -> None:
        if self._gate is not None:
            gate, self._gate = self._gate, None
            gate.set()
            self._stir()

    def close(self, words: str) -> None:
        """The fence: from here on nothing of this run is recorded, and whoever still waits is told."""
        if self.over is not None:
            return
        self.over = words
        self._turns.end()
        if self._gate is not None:
            self._gate.set()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        for _, future in self._waits.values():
            if not future.done():
                future.set_exception(RunOver(words))
                future.exception()  # whether or not somebody still listens
        for never in self._refused:
            if not never.done():
                never.set_exception(RunOver(words))

    # Checks and writes

    def _check_open(self) -> None:
        if self.over is not None:
            raise RunOver(self.over)

    def _key(self, kind: StepKind, name: str, count: int) -> Key:
        return self._checked(kind, check_name(name), check_count(count))

    def _checked(self, kind: StepKind, name: str, count: int) -> Key:
        """The key of a step whose name and count have been looked at."""
        self._check_open()
        key: Key = (kind, name, count)
        if key not in self._known and self._of_kind[kind] >= self._most_steps:
            raise StepLimitExceeded(f"a run may have {self._most_steps:,} steps of a kind; {name!r} would be one more")
        return key

    @contextmanager
    def _occupy(self, key: Key) -> Iterator[None]:
        if key in self._occupied:
            raise JournalBreach(f"{key[0]} {key[1]!r} number {key[2]} is being waited for already")
        self._occupied.add(key)
        try:
            yield
        finally:
            self._occupied.discard(key)
            self._turns.leave(key)

    def _place(self, key: Key, known: _Known) -> tuple[int, str, int, int]:
        """Learn what is about to be recorded; where its row goes."""
        position = len(self._known)
        if key not in self._known:
            self._of_kind[key[0]] += 1
        self._known[key] = known
        return self._number, key[1], key[2], position

    async def _record(
        self,
        key: Key,
        known: _Known,
        value: bytes | None = None,
        error: ErrorRecord | None = None,
        *,
        started: int | None = None,
        within: str | None = None,
        size: int | None = None,
        progress: bool = True,
    ) -> None:
        if progress and (value is not None or size):
            self._room.take(len(value or b"") + (size or 0), key[1])
        now = self._clock.now()
        number, name, count, position = self._place(key, known)
        state, attempts, due, config = known
        ended = now if state in {"done", "failed"} else None
        texts = (pack_error(error), pack_config(config))
        await self._write(
            Store.record, now, number, key[0], name, count, position, state, attempts, due, None, value, *texts, within,
            size, now if started is None else started, ended, progress=progress,
        )  # fmt: skip

    async def _write(self, verb: Callable[..., T], *args: Any, progress: bool = True) -> T:
        self._check_open()
        self._writes += 1
        try:
            result = await self._writer.submit(verb, *args)
        except StorageError as error:
            self._host.on_lost(str(error))
            raise
        finally:
            self._writes -= 1
        self.progressed |= progress
        return result
