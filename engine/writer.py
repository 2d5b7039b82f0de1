"""One thread that owns the connection: it takes what is queued, commits it as one transaction, then
acknowledges it.

While one batch is being synced to disk the next one gathers, so the busier the engine, the cheaper a commit. When
there is little to write and the disk is prompt, the loop does it in the thread's stead: to wake a thread and be woken
by it takes longer than to wait for the disk.
It knows verbs only as functions. Nothing is acknowledged that was not committed; after a failed commit the
file is opened anew, since what a failed sync left in memory cannot be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from .errors import EngineClosed, EngineError, StorageError
from .handover import Handover
from .log import LOG_BYTES
from .promptness import Promptness
from .store.brief import brief
from .telling import Telling
from .writes import Unwaited

if TYPE_CHECKING:
    from .store.kin import Kin
    from .store.store import News, Store
    from .writes import Write

MAX_BATCH = 512
TIDY_COMMITS = 128
"""After so many small ones the thread shortens the log: those that the loop makes do not."""
QUIET_SECONDS = 2.0
"""When nothing was written for so long, or twice as long, the log gives back what it has: who rests has no more on disk
than data."""
FEW = 4
GATHER_SECONDS = 0.0003
PATIENCE_SECONDS, NAP_SECONDS = 1.0, 0.002
"""How long another program may have the file, and how often it is tried."""

P = ParamSpec("P")
T = TypeVar("T")
_Operation = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any] | Write | Unwaited"]

log = logging.getLogger(__name__)


class Writer:
    """Runs verbs of the store in order, many to a commit. Made and used on one event loop."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._store: Store | None = None
        self._handover: Handover[_Operation] = Handover(self._work_here)
        self._promptness = Promptness()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="cloister-writer", daemon=True)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self.on_news: Callable[[News | None], None] = lambda news: None
        self.on_kin: Callable[[Kin], None] = lambda kin: None
        """Hears what an operation did to instances that it was not about, in the order of the operations."""
        self._idle: list[asyncio.Future[None]] = []
        self.closing = False
        self._size = 0  # of the last batch
        self._untidy, self._alarm = 0, LOG_BYTES
        self._rests = False  # the log has nothing to give back
        self._seen_here = 0  # how many commits of the loop's there were when the thread last looked
        self._telling = Telling(self._loop)
        self.pending = self.commits = self.operations = 0
        self.commits_here = 0
        """How many of them the loop made itself."""

    async def open(self) -> None:
        """Start the thread; raises what opening the store raises."""
        try:
            self._thread.start()
            await self._opened
        except BaseException:
            self._handover.close()
            if self._thread.ident is not None:
                self._thread.join()
            self._handover.closed()
            raise

    async def close(self) -> None:
        """Let everything that was submitted be committed, then close the store. Nothing is written after that, even if
        this is cancelled.
        """
        self.closing = True
        self._handover.close()
        try:
            await self._ended
        finally:
            self._thread.join()
            self._handover.closed()

    def submit(self, verb: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Queue a verb. The future is done once its transaction is durable; `StorageError` if that failed."""
        assert not kwargs
        if self.closing:
            raise EngineClosed
        future: asyncio.Future[T] = self._loop.create_future()
        self.pending += 1
        self._handover.put((verb, args, future))
        return future

    def submit_unhurried(self, failed: Callable[[BaseException], object], verb: Callable[..., Any], *args: Any) -> None:
        """The same for what nobody waits for: it shares the commit of what comes next, or has its own before long."""
        if self.closing:
            raise EngineClosed
        self.pending += 1
        self._handover.put_unhurried((verb, args, Unwaited(failed)))

    def submit_for(self, write: Write, verb: Callable[..., Any], *args: Any) -> None:
        """Queue a verb of which `write` is to hear, at once, what came of it."""
        if self.closing:
            raise EngineClosed
        self.pending += 1
        self._handover.put((verb, args, write))

    async def idle(self) -> bool:
        """Return when nothing that was submitted is unacknowledged, and whether that had to be waited for."""
        waited = False
        while self.pending:
            self._handover.hurry()
            waited = True
            if not self.pending:  # it was done at once
                break
            future: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(future)
            await future
        return waited

    def _acknowledge(self, batch: list[_Operation], results: list[Any], news: News | None) -> None:
        self.pending -= len(batch)
        self.operations += len(batch)
        self.commits += 1
        related = () if news is None else news.kin
        between = [(end, functools.partial(self.on_kin, kin)) for end, kin in related]
        self._telling.tell([waiter for _, _, waiter in batch], results, between)
        if news is not None or isinstance(results[0], StorageError):
            self.on_news(news)
        if not self.pending:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                if not idle.done():
                    idle.set_result(None)

    def _work_here(self) -> bool:
        """Do what waits, unless it could hold up the loop. The thread sleeps, and nobody else wakes it."""
        if (
            not self._promptness.proven
            or len(self._handover) > FEW
            or self.closing
            or self._untidy >= TIDY_COMMITS
            or self._rests
            or self._store is None
            or self._store.log.scarce
        ):
            return False
        started = time.perf_counter()
        try:
            if not all(brief(self._store, verb, args) for verb, args, _ in self._handover):
                return False
            self._store.begin(checkpoints=False)
        except Exception:  # noqa: BLE001 - whatever it is, the thread will meet it, and has time
            return False
        batch = self._handover.take(FEW)
        results = self._commit(batch, started)
        self.commits_here += 1
        self._untidy += 1
        self._acknowledge(batch, results, self._news())
        if isinstance(results[0], StorageError) and not isinstance(cause := results[0].__cause__, Exception | None):
            raise cause  # that somebody wants an end to it was meant for the loop
        return True

    # In the thread

    def _work(self) -> None:
        try:
            self._store = self._open_store()
        except BaseException as error:  # noqa: BLE001 - it is raised where the engine is opened
            self._handover.tell(_fail, self._opened, error)
            return
        self._handover.tell(_succeed, self._opened)
        while batch := self._gather():
            problem = self._begin()
            results = self._commit(batch) if problem is None else self._failed(batch, problem)
            self._handover.tell(self._acknowledge, batch, results, self._news())
            self._tidy()
        if self._store is not None:
            self._store.close()
        self._handover.tell(_succeed, self._ended)

    def _gather(self) -> list[_Operation]:
        """Everything that waits, up to a bound; nothing when it is time to end."""
        while not self._handover.wait(None if self._rests else QUIET_SECONDS):
            self._rest()
        self._rests = False
        if len(self._handover) < self._size and self._size > FEW:
            time.sleep(GATHER_SECONDS)  # those that were answered together come back together, and a sync is dearer
        batch = self._handover.take(MAX_BATCH)
        self._size = len(batch)
        return batch

    def _begin(self) -> BaseException | None:
        """A transaction, once others have let go of the file; or why there is none."""
        patience = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if self._store is None:
                    self._store = self._open_store()
                    self._store.log.cut()  # which may have taken the room that was missing
                self._store.begin()
            except BaseException as error:  # noqa: BLE001 - whoever waits is told
                if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                    return error
                time.sleep(NAP_SECONDS)
            else:
                return None

    # In whichever of the two

    def _commit(self, batch: list[_Operation], started: float | None = None) -> list[Any]:
        """What each operation returned or refused with, after the commit; else the same error for all.

        The transaction has begun. If the loop waits, it has done so since `started`.
        """
        results: list[Any] = []
        store = self._store
        assert store is not None
        sealed = store.sealed
        try:
            for verb, args, _ in batch:
                try:
                    results.append(store.apart(verb, args) if sealed else verb(store, *args))
                except EngineError as refusal:
                    results.append(refusal)
                if store.kin is not None:
                    store.related(len(results))
            if started is None:
                started = time.perf_counter()
            store.commit()
            self._promptness.took(time.perf_counter() - started)
        except BaseException as error:  # noqa: BLE001 - whatever it is: who waits must be told
            return self._failed(batch, error)
        return results

    def _news(self) -> News | None:
        return None if self._store is None else self._store.news()

    def _failed(self, batch: list[_Operation], error: BaseException) -> list[Any]:
        """The same for all, and nothing of it stays: what a failed sync left in memory cannot be trusted."""
        log.error("a batch of %d operations was not stored: %s", len(batch), error, exc_info=error)
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._store.close()
            self._store = None
        if isinstance(error, StorageError):
            return [error] * len(batch)
        failure = StorageError(f"could not be stored: {error}")
        failure.__cause__ = error
        return [failure] * len(batch)

    def _rest(self) -> None:
        """Nobody has wanted the thread for a while: unless the loop has written meanwhile, cut the log off, and sleep
        until there is work. That the loop leaves to the thread, which so sees when it is quiet again.
        """
        quiet, self._seen_here = self._seen_here == self.commits_here, self.commits_here
        if quiet:
            self._rests = self._store is None or self._store.log.cut()

    def _tidy(self) -> None:
        """Now and then see to it that the log does not grow without bound, and say when somebody keeps it from that."""
        self._untidy += 1
        if self._untidy < TIDY_COMMITS or self._store is None:
            return
        self._untidy = 0
        try:
            size = self._store.log.bound()
        except Exception as error:  # noqa: BLE001 - what is wrong shows in the next commit
            log.warning("the log could not be looked after: %s", error)
            return
        if size > self._alarm:
            log.warning("the log has %d bytes and cannot be cut off: somebody reads in the database for long", size)
            self._alarm = 2 * size
        elif size <= LOG_BYTES:
            self._alarm = LOG_BYTES


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
