"""The processes that run tenants' SQL, as the host has them: each runs one batch at a time, and tenants take turns.

What does not end within its time is ended with its process, which nothing else is lost with. A tenant that has taken
more than its share of late has half of them at most, so that the others always find one soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Self

import msgpack

from ..fair import FairQueue
from ..quota import Bucket as Measure
from .lines import StoreClosed

_START: Final = """
import sys, types
package = sys.modules["sql"] = types.ModuleType("sql")
package.__path__ = [sys.argv[1]]
sys.path.append(sys.argv[2])
from sql.server import main
main()
"""
_GRACE: Final = 0.25
"""Seconds that a batch may take beyond its time before its process is ended."""
_SHARE: Final = 0.1
"""Of one process, that a tenant may take on and on before it counts as busy,"""
_BURST: Final = 1.0
"""and the seconds that it may take at once."""
_SWEEP: Final = 256
_KEPT: Final = ("TMPDIR", "SQLITE_TMPDIR")


class Overran(Exception):
    """The batch took too long, and its process was ended."""


class Lost(Exception):
    """The process ended, and nobody knows of what."""


class Lane:
    """One process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self.gone = False
        self.file = ""
        """What it has open."""

    @classmethod
    async def open(cls, memory: int) -> Self:
        """Start one, in which SQLite may take so many bytes of memory."""
        ours, theirs = socket.socketpair()
        folders = [str(Path(__file__).parent / "sql"), str(Path(msgpack.__file__).parent.parent)]
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220 - a spawn of a fresh program takes about a millisecond
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _START, *folders, str(theirs.fileno()), str(memory)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", pass_fds=[theirs.fileno()],
                env={name: os.environ[name] for name in _KEPT if name in os.environ}, start_new_session=True,
            )  # fmt: skip
        lane = cls(process)
        try:
            lane._reader, lane._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            await lane.close()
            raise
        return lane

    async def run(self, batch: dict[str, Any], seconds: float, may: Callable[[int], bool]) -> list[Any]:
        """What becomes of a batch: `["done", results]`, or `["failed", kind, words]`. It has so many seconds from when
        the file is open; `may` is asked for the size that the file would have. `Overran`, `Lost`."""
        self.file = batch["path"]
        try:
            await self._tell(batch)
            async with asyncio.timeout(seconds + _GRACE) as patience:
                while True:
                    match await self._hear():
                        case ["begun"]:
                            patience.reschedule(asyncio.get_running_loop().time() + seconds + _GRACE)
                        case ["settling"]:
                            patience.reschedule(None)
                        case ["commit", int(size)]:
                            await self._tell(may(size))
                        case answer:
                            return answer
        except TimeoutError:
            await self.close()
            raise Overran from None
        except (OSError, EOFError) as error:
            await self.close()
            raise Lost from error

    async def stop(self) -> None:
        """Nobody waits any longer for what it runs."""
        with contextlib.suppress(OSError):
            await self._tell("stop")

    async def close(self) -> None:
        """End it."""
        if self.gone:
            return
        self.gone = True
        if self._writer is not None:
            self._writer.close()
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        os.close(self._pidfd)

    @property
    def dead(self) -> bool:
        """Whether it has ended by itself."""
        return self._reader.at_eof()

    async def _tell(self, message: Any) -> None:
        assert self._writer is not None
        data = msgpack.packb(message, unicode_errors="surrogatepass")
        self._writer.write(struct.pack("=I", len(data)) + data)
        await self._writer.drain()

    async def _hear(self) -> list[Any]:
        (size,) = struct.unpack("=I", await self._reader.readexactly(4))
        message: list[Any] = msgpack.unpackb(await self._reader.readexactly(size), unicode_errors="surrogatepass")
        return message


class Lanes:
    """At most so many processes, which are started when they are needed."""

    def __init__(self, most: int, memory: int) -> None:
        self._most, self._memory = most, memory
        self._idle: list[Lane] = []
        self._inside = 0
        self._busy = 0
        """How many of those inside are run for tenants that have taken more than their share."""
        self._taken: dict[str, Measure] = {}
        self._swept = _SWEEP
        self._passed: set[str] = set()
        """Who has to wait for one of those."""
        self._queue: FairQueue[str, asyncio.Future[bool]] = FairQueue()
        self._left = asyncio.Event()
        self._open = True

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, file: str) -> AsyncIterator[Lane]:
        """A process, for whoever's turn it is: the one that has the file open, if that is idle."""
        busy, began = await self._enter(tenant), time.monotonic()
        try:
            lane = await self._lane(file)
            try:
                yield lane
            finally:
                if not lane.gone:
                    self._idle.append(lane)
        finally:
            self._charge(tenant, began)
            self._leave(busy)

    async def aclose(self) -> None:
        """Nobody has a turn any more; what runs is waited for."""
        self._open = False
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(closed())
        while self._inside:
            self._left.clear()
            await self._left.wait()
        while self._idle:
            await self._idle.pop().close()

    async def _lane(self, file: str) -> Lane:
        while self._idle:
            lane = next((lane for lane in self._idle if lane.file == file), self._idle[0])
            self._idle.remove(lane)
            if not lane.dead:
                return lane
            await lane.close()
        return await Lane.open(self._memory)

    async def _enter(self, tenant: str) -> bool:
        if not self._open:
            raise closed()
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.push(tenant, turn)
        self._let_in()
        try:
            return await turn
        except BaseException:
            self._queue.remove(tenant, turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave(turn.result())  # its turn had come at the moment when it gave up
            raise

    def _leave(self, busy: bool) -> None:
        self._inside -= 1
        self._busy -= busy
        self._left.set()
        for tenant in self._passed:
            self._queue.wake(tenant)
        self._passed.clear()
        self._let_in()

    def _let_in(self) -> None:
        while self._open and self._inside < self._most and (found := self._queue.pop(self._may)) is not None:
            tenant, turn = found
            if not turn.done():  # else it has given up
                busy = self._is_busy(tenant)
                self._inside += 1
                self._busy += busy
                turn.set_result(busy)

    def _may(self, tenant: str) -> bool:
        if self._busy < max(self._most // 2, 1) or not self._is_busy(tenant):
            return True
        self._passed.add(tenant)
        return False

    def _is_busy(self, tenant: str) -> bool:
        return tenant in self._taken and self._taken[tenant].level(time.monotonic()) < 0

    def _charge(self, tenant: str, began: float) -> None:
        """Keep in mind what it has taken, for as long as that says anything."""
        now = time.monotonic()
        self._taken.setdefault(tenant, Measure(_SHARE, _BURST, began)).draw(now - began, now)
        if len(self._taken) > self._swept:
            self._taken = {one: taken for one, taken in self._taken.items() if taken.level(now) < _BURST}
            self._swept = 2 * len(self._taken) + _SWEEP


def closed() -> StoreClosed:
    """What whoever comes too early or too late is told."""
    return StoreClosed("use the Databases inside `async with`")
