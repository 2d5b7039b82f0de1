"""The engine: one database file, one writer, and the workflows that are registered on them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .clock import Clock, SystemClock
from .controls import Controls
from .database import Synchronous, connect, connect_to_read, copy, refusal
from .errors import EngineClosed
from .history import Watchers
from .options import Retention
from .ownership import Ownership
from .reader import Reader
from .retention import Sweeper
from .rules import check_seconds, check_workflow_name
from .scheduler import Scheduler
from .schedules import read_schedules
from .sharing import WorkflowLimits
from .store.backlog import Bounds
from .store.catalogue import Catalogue
from .store.kin import Kin
from .store.store import News, Store
from .store.transaction import Done, Raised, Transaction, transact
from .workflow import Workflow
from .writer import Writer

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from .codecs import PayloadCodec
    from .entrypoint import WorkflowEntrypoint
    from .mocks import Mocks

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counters since the engine was opened, and gauges of this moment."""

    running: int
    started: int
    parked: int
    finished: int
    lost: int
    postponed: int
    expired: int
    commits: int
    operations: int
    pending_operations: int


class Engine:
    """Durable execution on one SQLite file, which it owns while it is open.

    `synchronous="full"`: acknowledged means on disk. `"normal"`: a power loss (not a crash of the process)
    may take the last commits. `linger` is how many seconds a run that can only wait is kept in memory.
    `codec` compresses or encrypts payloads on disk: see `PayloadCodec`. `mocks` are for tests: see
    `cloister.engine.testing`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "full",
        clock: Clock | None = None,
        linger: float = 0.05,
        codec: PayloadCodec | None = None,
        mocks: Mocks | None = None,
    ) -> None:
        if synchronous not in ("full", "normal"):
            raise ValueError(f'synchronous is "full" or "normal", not {synchronous!r:.40}')
        if str(path) == ":memory:" or str(path).startswith("file:"):
            raise ValueError(
                f"{path}: an engine's database is a file that is named by its path; a test has a temporary one"
            )
        self._path = Path(path).resolve()
        self._synchronous: Synchronous = synchronous
        self._clock = clock if clock is not None else SystemClock()
        self._codec = codec
        self._linger, self._mocks = check_seconds(linger, "`linger`"), mocks
        self._writer: Writer | None = None
        self._schedulers: dict[str, Scheduler] = {}
        self._watchers = Watchers()
        self._quotas: dict[str, int] = {}
        self._bounds: dict[str, Bounds] = {}
        self._ended_beside: set[int] = set()

    async def __aenter__(self) -> Self:
        """Open the database: `EngineLocked`, `NotACloisterDatabase`, `DatabaseTooNew`, `StorageError`."""
        if self._writer is not None:
            raise RuntimeError("this engine was opened before; make another one")
        self._ownership = Ownership(self._path)
        try:
            writer = Writer(self._open_store)
            await writer.open()
        except BaseException:
            self._ownership.release()
            raise
        self._writer = writer
        self._reader = Reader(lambda: Catalogue(connect_to_read(self._path), self._codec))
        self._sweeper = Sweeper(writer, self._clock)
        writer.on_news, writer.on_kin = self._hear, self._tell
        self._clock.attach(writer.idle)
        self._clock.attach(self._reader.idle)
        self._sweeper.expect(self._clock.now())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the runs (they go on when the database is opened again), write what is to be written, let go
        of the file.
        """
        writer = self._open_writer()
        async with contextlib.AsyncExitStack() as rest:  # from the last one on, even if what comes first is cancelled
            rest.callback(self._ownership.release)
            rest.push_async_callback(writer.close)
            rest.push_async_callback(writer.idle)
            rest.callback(self._watchers.ring, None)  # who waits for more is told that there is none
            rest.push_async_callback(self._reader.close)
            await asyncio.gather(self._sweeper.close(), *(each.close() for each in self._schedulers.values()))

    def _hear(self, news: News | None) -> None:
        """What a transaction means to those who asked for none; None if nobody knows what was stored."""
        self._watchers.ring(None if news is None else news.touched)
        if news is not None and news.expires is not None:
            self._sweeper.expect(news.expires)

    def _tell(self, kin: Kin) -> None:
        """What was done to instances that it was not about."""
        for _, address, error in kin.ended:
            if (scheduler := self._schedulers.get(address.workflow)) is not None:
                scheduler.ended_with(address, error)
        if kin.ended and self._writer is not None and not self._writer.closing:
            numbers = [number for number, _, _ in kin.ended]
            self._writer.submit_unhurried(lambda _: None, Store.forget, numbers)  # behind what they had submitted
        for answer in kin.answers:
            if (scheduler := self._schedulers.get(answer.parent.workflow)) is not None:
                scheduler.answered(answer)
        for workflow in kin.queued:
            if (scheduler := self._schedulers.get(workflow)) is not None:
                scheduler.queued()

    def _open_store(self) -> Store:
        self._ownership.check()
        connection = connect(self._path, self._synchronous, examine=self._writer is None)
        try:
            store = Store(connection, self._codec)
            store.watched, store.quotas = self._watchers.watched, self._quotas
            store.bounds = self._bounds
            store.try_codec()
            store.remember(self._ended_beside)
            return store
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise refusal(self._path, error) from error
            raise

    def workflow(
        self,
        name: str,
        entrypoint: type[WorkflowEntrypoint],
        *,
        concurrency: int = 256,
        limits: WorkflowLimits | None = None,
        retention: object = None,
        schedules: object = (),
        env: Any = None,
    ) -> Workflow:
        """Register a class under a name and return its binding.

        Unfinished instances of that name go on from now on. At most `concurrency` of them run at once, those that wait
        for something not counted; the others queue, and slots are shared out among the scopes. `limits` says what one
        scope may take: see `WorkflowLimits`. `schedules` create instances by the clock: a list of `Schedule`s, or of
        cron expressions in UTC.

        `retention` says how long an instance is kept after its end unless it says so itself: a duration, a dict of
        `success_retention` and `error_retention`, or "forever"; 7 days by default, 365 at most.
        """
        writer = self._open_writer()
        check_workflow_name(name)
        if name in self._schedulers:
            raise ValueError(f"workflow {name!r} is registered already")
        if not isinstance(entrypoint, type) or not callable(getattr(entrypoint, "run", None)):
            raise TypeError(f"what is registered is a class with a method `run`, not {entrypoint!r:.80}")
        if type(concurrency) is not int or concurrency < 1:
            raise ValueError(f"the concurrency of a workflow is a whole number from 1, not {concurrency!r:.40}")
        if limits is not None and not isinstance(limits, WorkflowLimits):
            raise TypeError(f"the limits of a workflow are `WorkflowLimits`, not {type(limits).__name__}")
        kept = Retention.of_workflow(retention)
        limits = limits or WorkflowLimits()
        self._bounds[name] = Bounds(limits.queued_per_scope, limits.queued)
        if limits.bytes_per_scope is not None:
            self._quotas[name] = limits.bytes_per_scope
        self._schedulers[name] = Scheduler(
            name, entrypoint, env, concurrency, kept, limits, read_schedules(schedules),
            writer=writer, reader=self._reader, watchers=self._watchers, clock=self._clock, linger=self._linger,
            mocks=self._mocks,
        )  # fmt: skip
        return Workflow(Controls(self._schedulers[name], limits))

    async def transact(self, write: Callable[[Transaction], T]) -> T:
        """Write to tables of your own in the engine's file and create instances in one transaction; what `write`
        returned.

        `write` is called in the engine's thread with a `Transaction`, which has `execute` and `create`; it must be
        quick, since everybody waits for it. If it raises, nothing of it is stored, and that is raised here. The
        engine's own tables may be read and not be written to.
        """
        if inspect.iscoroutinefunction(write):
            raise TypeError("the function of a transaction is called in another thread, and cannot be a coroutine's")
        context = contextvars.copy_context()  # so that ids are derived from the step that this is called in
        now = self._clock.now()
        write_it = self._open_writer().submit(transact, lambda transaction: context.run(write, transaction), now)
        write_it.add_done_callback(self._transacted)
        outcome = await asyncio.shield(write_it)
        if isinstance(outcome, Raised):
            raise outcome.error
        return outcome.result

    def _transacted(self, write: asyncio.Future[Done[T] | Raised]) -> None:
        """See to it that what was created runs; if nobody knows what was stored, everybody looks."""
        outcome = None if write.exception() else write.result()
        for name, scheduler in self._schedulers.items():
            if outcome is None or (isinstance(outcome, Done) and name in outcome.workflows):
                scheduler.queued()

    async def backup(self, path: str | os.PathLike[str]) -> int:
        """Copy the database as it is now to a new file, while everything goes on; its size in bytes.

        The copy is complete and on disk when it appears under its name. Open it instead of the original, never beside
        it: each would run the same instances. Raises `FileExistsError`, `StorageError`.
        """
        self._open_writer()
        return await asyncio.to_thread(copy, self._path, Path(path))

    def statistics(self) -> EngineStatistics:
        writer, schedulers = self._open_writer(), self._schedulers.values()
        return EngineStatistics(
            running=sum(len(scheduler.active) for scheduler in schedulers),
            started=sum(scheduler.started for scheduler in schedulers),
            parked=sum(scheduler.parked for scheduler in schedulers),
            finished=sum(scheduler.completed for scheduler in schedulers),
            lost=sum(scheduler.losses for scheduler in schedulers),
            expired=self._sweeper.expired,
            postponed=sum(scheduler.postponements for scheduler in schedulers),
            commits=writer.commits,
            operations=writer.operations,
            pending_operations=writer.pending,
        )

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise EngineClosed
        return self._writer
