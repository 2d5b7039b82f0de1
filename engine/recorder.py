"""What a live run's journal stands on: it writes in order, waits, and knows when the run can only wait.

Whatever the run was told in memory is decided before it is queued to be written, in order, so that memory and database
cannot disagree: if a write fails the run is lost and the journal shut. It knows neither tasks nor processes; what is to
happen to the run it says to its `host`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, get_args

from .clock import Clock, Timer, resolve
from .errors import JournalBreach, QuotaExceeded, RunOver, StepLimitExceeded, StorageError
from .records import DEFAULT_CONFIG, Claim, ErrorRecord, Key, StepConfig, StepKind, StepState
from .room import Room
from .rules import MAX_STEPS, check_count, check_name
from .store import steps as recorded
from .store.columns import pack_config, pack_error
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .mocks import Mocks
    from .writer import Writer

PATIENCE = 5.0
"""Seconds that the outcomes behind an event wait for a run that is on its way to ask for it."""
DRAIN_LOOKS, DRAIN_LOOK_SECONDS = 100, 0.01
"""How often a program that is to pause is asked whether it rests, and how long after the time before."""

T = TypeVar("T")


class JournalHost(Protocol):
    """Whoever keeps the run."""

    def on_parkable(self, waits: tuple[Key, ...]) -> None:
        """The run can only wait, and has done nothing else for a while."""

    def on_drained(self) -> None:
        """The steps in flight when the drain began have ended."""

    def on_lost(self, reason: str) -> None:
        """Something could not be recorded."""


class _Nobody:
    """Hears what is said of a run that is over."""

    def on_parkable(self, waits: tuple[Key, ...]) -> None: ...
    def on_drained(self) -> None: ...
    def on_lost(self, reason: str) -> None: ...


_NOBODY: Final = _Nobody()


class Known(NamedTuple):
    """What is recorded of a step, as far as the rest of its life depends on it."""

    state: StepState
    attempts: int
    due: int | None
    config: StepConfig


async def _always() -> bool:
    return True


_NONE_OF_ANY: Final[dict[StepKind, int]] = dict.fromkeys(get_args(StepKind), 0)


class Recorder:
    """What every method of a journal is made of. `frozen`: nothing new is recorded; `over`: nothing at all."""

    __slots__ = (  # tens of thousands may be live at once, and a dict for so many attributes takes 1.5 KiB
        "_activity", "_arrived", "_asking", "_claim", "_clock", "_draining", "_gate", "_host", "_known", "_linger",
        "_linger_timer", "_mocks", "_most_steps", "_number", "_occupied", "_of_kind", "_refusal", "_refused", "_room",
        "_running", "_turns", "_waits", "_writer", "_writes", "claims", "code_digest", "frozen", "history",
        "instance_id", "only_waits", "over", "progressed", "run", "scope", "supervised", "undoing", "workflow_name",
    )  # fmt: skip

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
        self._host: JournalHost = host
        self._writer, self._clock, self._linger = writer, clock, linger
        self._known: dict[Key, Known] = {}
        self._of_kind = _NONE_OF_ANY.copy()
        self._room = Room(claim.history)
        for record in claim.history:
            known = Known(record.state, record.attempts, record.due_ms, record.config or DEFAULT_CONFIG)
            self._known[record.kind, record.name, record.count] = known
            self._of_kind[record.kind] += 1
        self._running: dict[Key, int] = {}
        self._refusal: asyncio.Event | None = None
        self._refused: set[asyncio.Future[None]] = set()
        self._occupied: set[Key] = set()
        self._waits: dict[Key, tuple[int, asyncio.Future[bytes | None]]] = {}
        self._arrived: dict[Key, bytes] = {}
        self._turns = Turns()
        self._writes = self._activity = 0
        self._linger_timer: Timer | None = None
        self._gate: asyncio.Event | None = None
        self._asking: asyncio.Future[None] | None = None
        self._draining: asyncio.Future[None] | None = None
        self.only_waits: Callable[[], Awaitable[bool]] = _always
        self.over: str | None = None
        self.progressed = False

    def running(self) -> dict[Key, int]:
        """The steps in progress, and when the attempt began."""
        return dict(self._running)

    @property
    def refused(self) -> asyncio.Event:
        """Set once something was asked for that is not answered."""
        if self._refusal is None:
            self._refusal = asyncio.Event()
        return self._refusal

    async def _refuse(self) -> None:
        """A run that takes its steps back does nothing else; who asks for more is not answered."""
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refused.add(never)
        self.refused.set()
        try:
            await never
        finally:
            self._refused.discard(never)

    def _check_stored(self, write: asyncio.Future[Any]) -> None:
        if not write.cancelled() and (error := write.exception()) is not None:
            self._host.on_lost(str(error))

    @property
    def childless(self) -> bool:
        """Whether the run has begun no instance that it awaits, nor is about to."""
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

    @property
    def _next(self) -> bool:
        """Whether nothing is before an outcome that returns to the run now, as mostly: see `_turn`."""
        return not self._turns.waiting and self._gate is None and self._mocks is None

    async def _turn(self, key: Key) -> None:
        """Return to the run after every outcome that was recorded before this one."""
        if self._next:
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

    async def _until(self, key: Key, known: Known) -> bytes | None:
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
            if self._draining is None:
                self._draining = asyncio.ensure_future(self._drained())
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

    async def _drained(self) -> None:
        """Say that nothing is in progress, when whoever runs the program says so as well: bodies that have only just
        begun were not announced, and outcomes may be on their way. A program that never rests is not waited for long.
        """
        try:
            for _ in range(DRAIN_LOOKS):
                seen, idle = self._activity, await self.only_waits()
                for _ in range(3):
                    await asyncio.sleep(0)  # what has come before that answer is looked at first
                if self.over is not None or self._gate is None or self._running or self._writes:
                    return  # what goes on stirs again when it ends
                if idle and self._activity == seen:
                    break
                await asyncio.sleep(DRAIN_LOOK_SECONDS)
                if self._running or self._writes:
                    return
            if self.over is None and self._gate is not None:
                self._host.on_drained()
        finally:
            self._draining = None

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
        """The fence: from here on nothing of this run is recorded, and whoever still waits is told.

        Whoever keeps the run has heard the last of it, and need not be held any longer: the two would have to be found
        by the garbage collector, with all that they hold.
        """
        if self.over is not None:
            return
        self.over = words
        self._host = _NOBODY
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
        if self.over is not None:
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

    def _place(self, key: Key, known: Known) -> tuple[int, str, int, int]:
        """Learn what is about to be recorded; where its row goes."""
        position = len(self._known)
        if key not in self._known:
            self._of_kind[key[0]] += 1
        self._known[key] = known
        return self._number, key[1], key[2], position

    def _forget(self, key: Key) -> None:
        """It was not recorded after all."""
        self._of_kind[key[0]] -= 1
        del self._known[key]

    def _record(
        self,
        key: Key,
        known: Known,
        value: bytes | None = None,
        error: ErrorRecord | None = None,
        *,
        now: int | None = None,
        started: int | None = None,
        within: str | None = None,
        size: int | None = None,
        progress: bool = True,
    ) -> Awaitable[None]:
        if progress and (value is not None or size):
            self._room.take(len(value or b"") + (size or 0), key[1])
        now = self._clock.now() if now is None else now
        before = self._known.get(key)
        number, name, count, position = self._place(key, known)
        state, attempts, due, config = known
        ended = now if state in {"done", "failed"} else None
        failure = None if error is None else pack_error(error)
        settings = None if config is DEFAULT_CONFIG else pack_config(config)
        return self._write(
            recorded.record, now, number, key[0], name, count, position, state, attempts, due, None, value, failure,
            settings, within, size, now if started is None else started, ended, progress=progress,
            replaces=(key, known, before),
        )  # fmt: skip

    async def _write(
        self,
        verb: Callable[..., T],
        *args: Any,
        progress: bool = True,
        replaces: tuple[Key, Known, Known | None] | None = None,
    ) -> T:
        if self.over is not None:
            self._check_open()
        self._writes += 1
        try:
            result = await self._writer.submit(verb, *args)
        except StorageError as error:
            self._host.on_lost(str(error))
            raise
        except QuotaExceeded:
            if replaces is not None:  # it stands where it stood, and may end otherwise
                key, known, before = replaces
                if self._known[key] is known:
                    self._known[key] = before or Known("retrying", 0, None, known.config)
                    if before is None and key[0] not in {"do", "undo"}:
                        self._forget(key)
            raise
        finally:
            self._writes -= 1
        self.progressed |= progress
        return result
