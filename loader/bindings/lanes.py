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

from ..quota import Bucket as Measure
from .lines import StoreClosed
from .shares import Shares

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
        self.gone = self.occupied = False
        self._reaping: asyncio.Future[None]
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
        data = _packed(batch)
        self.file, self.occupied = batch["path"], True
        try:
            await self._send(data)
            async with asyncio.timeout(seconds + _GRACE) as patience:
                while True:
                    match await self._hear():
                        case ["begun"]:
                            patience.reschedule(asyncio.get_running_loop().time() + seconds + _GRACE)
                        case ["settling"]:
                            patience.reschedule(None)
                        case ["commit", int(size)]:
                            await self._send(_packed(may(size)))
                        case answer:
                            self.occupied = False
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
            await self._send(_packed("stop"))

    def kill(self) -> None:
        """End it at once. Harmless when repeated."""
        if self.gone:
            return
        self.gone = True
        if self._writer is not None:
            self._writer.close()
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._reaping = asyncio.ensure_future(self._reap())

    async def close(self) -> None:
        """End it, and wait until it has."""
        self.kill()
        await asyncio.shield(self._reaping)

    async def _reap(self) -> None:
        await asyncio.to_thread(self._process.wait)
        os.close(self._pidfd)

    @property
    def dead(self) -> bool:
        """Whether it has ended by itself."""
        return self._reader.at_eof()

    async def _send(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    async def _hear(self) -> list[Any]:
        (size,) = struct.unpack("=I", await self._reader.readexactly(4))
        message: list[Any] = msgpack.unpackb(await self._reader.readexactly(size), unicode_errors="surrogatepass")
        return message


def _packed(message: Any) -> bytes:
    data = msgpack.packb(message, unicode_errors="surrogatepass")
    return struct.pack("=I", len(data)) + data


class Lanes:
    """At most so many processes, which are started when they are needed."""

    def __init__(self, most: int, memory: int) -> None:
        self._memory = memory
        self._turns = Turns(most)
        self._idle: list[Lane] = []

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, file: str) -> AsyncIterator[Lane]:
        """A process, for whoever's turn it is: the one that has the file open, if that is idle."""
        await self._turns.enter(tenant)
        began = time.monotonic()
        try:
            lane = await self._lane(file)
            try:
                yield lane
            finally:
                if lane.occupied:  # whoever waited for it is gone, and nobody else is to hear what it says
                    lane.kill()
                if not lane.gone:
                    self._idle.append(lane)
        finally:
            self._turns.charge(tenant, time.monotonic() - began)
            self._turns.leave(tenant)

    async def aclose(self) -> None:
        """Nobody has a turn any more; what runs is waited for."""
        await self._turns.close(closed())
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


class Turns(Shares):
    """Of tenants that have taken more than their share of late, half of those inside are at most."""

    def __init__(self, most: int) -> None:
        super().__init__(most, most)
        self._taken: dict[str, Measure] = {}
        self._swept = _SWEEP

    def may(self, tenant: str) -> bool:
        """Whether it has taken little, or few are inside that have taken much."""
        busy = sum(count for one, count in self.inside.items() if self._is_busy(one))
        return busy < max(self.most // 2, 1) or not self._is_busy(tenant)

    def charge(self, tenant: str, seconds: float) -> None:
        """Keep in mind what it has taken, for as long as that says anything."""
        now = time.monotonic()
        self._taken.setdefault(tenant, Measure(_SHARE, _BURST, now)).draw(seconds, now)
        if len(self._taken) > self._swept:
            self._taken = {one: taken for one, taken in self._taken.items() if taken.level(now) < _BURST}
            self._swept = 2 * len(self._taken) + _SWEEP

    def _is_busy(self, tenant: str) -> bool:
        return tenant in self._taken and self._taken[tenant].level(time.monotonic()) < 0


def closed() -> StoreClosed:
    """What whoever comes too early or too late is told."""
    return StoreClosed("use the Databases inside `async with`")
