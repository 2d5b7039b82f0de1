"""What a live run's journal stands on: it knows what is recorded, checks what is to be, and writes in order.

Whatever the run was told in memory is decided before it is queued to be written, in order, so that memory and database
cannot disagree: if a write fails the run is lost and the journal shut. It knows neither tasks nor processes; what is to
happen to the run it says to its `host`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, get_args

from .clock import Clock, Timer
from .errors import CodecFailed, JournalBreach, QuotaExceeded, RunOver, StepLimitExceeded, StorageError
from .keeper import NOBODY, JournalHost
from .records import DEFAULT_CONFIG, Claim, ErrorRecord, Key, StepConfig, StepKind, StepState
from .room import Room
from .rules import MAX_STEPS, check_count, check_name
from .store import instances
from .store import steps as recorded
from .store.columns import pack_config, pack_error
from .turns import Turns
from .writes import Write, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from collections.abc import Set as AbstractSet

    from .mocks import Mocks
    from .writer import Writer

T = TypeVar("T")


class Known(NamedTuple):
    """What is recorded of a step, as far as the rest of its life depends on it."""

    state: StepState
    attempts: int
    due: int | None
    config: StepConfig


Beginning = tuple[int, int, int]
"""Of an attempt: the time, how many steps were on record, and its number."""
Replaced = tuple[Key, Known, Known | None, int]
"""What is about to be recorded of a step, what was known of it before, and how many bytes it takes."""


async def _always() -> bool:
    return True


_NONE_OF_ANY: Final[dict[StepKind, int]] = dict.fromkeys(get_args(StepKind), 0)


class Recorder:
    """What every method of a journal is made of. `frozen`: nothing new is recorded; `over`: nothing at all."""

    __slots__ = (  # tens of thousands may be live at once, and a dict for so many attributes takes 1.5 KiB
        "_activity", "_announced", "_arrived", "_asking", "_claim", "_clock", "_draining", "_gate", "_holds", "_host",
        "_known", "_linger", "_linger_timer", "_mocks", "_most_steps", "_number", "_occupied", "_of_kind", "_refusal",
        "_refused", "_rests", "_returning", "_room", "_running", "_turns", "_waits", "_watched", "_writer", "_writes",
        "claims", "code_digest", "frozen", "history", "instance_id", "mail", "only_waits", "over", "progressed", "run",
        "scope", "supervised", "undoing", "workflow_name",
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
        watched: AbstractSet[int] = frozenset(),
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
        all_fit = self._of_kind["wait"] + len(claim.mail) <= steps
        self.mail = claim.mail if all_fit and not self.supervised else ()
        self._running: dict[Key, Beginning] = {}
        self._watched = watched
        self._announced: set[tuple[Key, int]] | None = None
        self._refusal: asyncio.Event | None = None
        self._refused: set[asyncio.Future[None]] = set()
        self._returning: set[asyncio.Future[None]] = set()
        self._occupied: set[Key] = set()
        self._waits: dict[Key, tuple[int, asyncio.Future[bytes | None]]] = {}
        self._arrived: dict[Key, bytes] = {}
        self._turns = Turns()
        self._writes = self._holds = self._activity = 0
        self._rests = False  # it is on record that the run, which is kept, does nothing but wait
        self._linger_timer: Timer | None = None
        self._gate: asyncio.Event | None = None
        self._asking: asyncio.Future[None] | None = None
        self._draining: asyncio.Future[None] | None = None
        self.only_waits: Callable[[], Awaitable[bool]] = _always
        self.over: str | None = None
        self.progressed = claim.woken

    def running(self) -> dict[Key, int]:
        """The steps in progress, and when the attempt began."""
        return {key: since for key, (since, *_) in self._running.items()}

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
            self._not_stored(error)

    def _not_stored(self, error: BaseException) -> None:
        (self._host.on_postponed if isinstance(error, CodecFailed) else self._host.on_lost)(str(error))

    @property
    def childless(self) -> bool:
        """Whether the run has begun no instance that it awaits, nor is about to."""
        return not self._of_kind["child"]

    def close(self, words: str) -> None:
        """The fence: from here on nothing of this run is recorded, and whoever still waits is told.

        Whoever keeps the run has heard the last of it, and need not be held any longer: the two would have to be found
        by the garbage collector, with all that they hold.
        """
        if self.over is not None:
            return
        self.over = words
        self._host = NOBODY
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
            self._activity += 1

    def _place(self, key: Key, known: Known) -> tuple[int, str, int, int]:
        """Learn what is about to be recorded; where its row goes."""
        position = len(self._known)
        if key not in self._known:
            self._of_kind[key[0]] += 1
        self._known[key] = known
        return self._number, key[1], key[2], position

    def _beginning(self, key: Key, now: int) -> Beginning:
        """When the attempt in progress began, or that it does now."""
        self._go_on()
        if key not in self._running:
            known = self._known.get(key)
            self._running[key] = began = (now, len(self._known), 1 if known is None else known.attempts + 1)
            if self._number in self._watched:
                self._announce(key, began)
        return self._running[key]

    def announce_all(self) -> None:
        """Somebody wants to hear of what is in progress, and from now on of each attempt when it begins."""
        if self.over is None:
            for key, began in self._running.items():
                known, (_, _, attempt) = self._known.get(key), began
                if known is None or known.attempts < attempt:  # else its end is being written
                    self._announce(key, began)

    def _announce(self, key: Key, began: Beginning) -> None:
        """That an attempt has begun is on record, once."""
        since, _, attempt = began
        if self._announced is None:
            self._announced = set()
        if (key, attempt) not in self._announced:
            self._announced.add((key, attempt))
            self._writer.submit_unhurried(self._not_stored, recorded.began, self._number, since, *key, attempt)

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
        began: Beginning | None = None,
        within: str | None = None,
        size: int | None = None,
        progress: bool = True,
    ) -> Awaitable[None]:
        taken = len(value or b"") + (size or 0) if progress else 0
        self._room.take(taken, key[1])
        now = self._clock.now() if now is None else now
        before = self._known.get(key)
        number, name, count, position = self._place(key, known)
        state, attempts, due, config = known
        ended = now if state in {"done", "failed"} else None
        failure = None if error is None else pack_error(error)
        settings = None if config is DEFAULT_CONFIG else pack_config(config)
        return self._write(
            recorded.record, now, number, key[0], name, count, position, state, attempts, due, None, value, failure,
            settings, within, size, *(began[:2] if began else (now, position)), ended, progress=progress,
            replaces=(key, known, before, taken),
        )  # fmt: skip

    async def _write(
        self,
        verb: Callable[..., T],
        *args: Any,
        progress: bool = True,
        replaces: Replaced | None = None,
    ) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def told(result: T, error: BaseException | None) -> None:
            if not settle(future, result, error):
                self._stir()  # for which whoever waited has not waited

        self._begin(Write(self, told, progress, replaces), verb, *args)
        return await future

    def _begin(self, write: Write, verb: Callable[..., Any], *args: Any) -> None:
        if self.over is not None:
            self._check_open()
        if self._rests:
            self._go_on()
        self._writer.submit_for(write, verb, *args)
        self._writes += 1

    def _go_on(self) -> None:
        """It rests no longer, if it did."""
        if self._rests and self.over is None:
            self._rests = False
            self._writer.submit_unhurried(self._not_stored, instances.go_on, self._number)

    def wrote(self, write: Write) -> None:
        """See `Bookkeeper`."""
        self._writes -= 1
        self._activity += 1
        self.progressed |= write.progress

    def failed(self, write: Write, error: BaseException) -> None:
        """See `Bookkeeper`."""
        self._writes -= 1
        self._activity += 1
        if isinstance(error, StorageError):
            self._not_stored(error)
        elif isinstance(error, QuotaExceeded) and write.replaces is not None:
            key, known, before, taken = write.replaces  # it stands where it stood, and may end otherwise
            self._room.give_back(taken)
            if self._known[key] is known:
                self._known[key] = before or Known("retrying", 0, None, known.config)
                if before is None and key[0] not in {"do", "undo"}:
                    self._forget(key)

    def _stir(self) -> None:
        """Something has begun or ended. What is to come of it is for whoever knows more."""
        raise NotImplementedError
