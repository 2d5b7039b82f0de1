"""The front's hold on one shard: its process, the way to it, and another one in its place when it is gone.

Like any process of ours it is held by a pidfd. When the service ends, however that happens, the shard sees its end of
the connection close, and ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from typing import Any, Final

from cloister.ipc import ConnectionClosed, RemoteProtocolError, Stub, values, zmtp
from cloister.ipc.pipe import Pipe
from cloister.ipc.stubs import RemoteMethod

from ..errors import LoaderClosed, ShardFailed, ShardLost
from .place import Shard
from .told import untold, untraced
from .wire import CLOSING_SECONDS, peer_over

_log = logging.getLogger("cloister.loader")
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_GRACE: Final = 2.0
_CLOSED: Final = "the shards are closed; use them inside `async with Shards(...)`"
_PROGRAM: Final = f"""\
import json, sys
given = json.loads(sys.argv[1])
sys.path[:] = given["path"]
from {__package__}.process import main
main(given)
"""


class Process:
    """One process of a shard, a fresh program in a session of its own: Ctrl-C is the front's. `lost` is done when it is
    gone."""

    def __init__(self, shard: Shard, named: tuple[str, str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._gone = ShardLost(f"the process of shard {shard.number} has ended; another one is started")
        self._hello: asyncio.Future[Exception | None] = self._loop.create_future()
        self._reaped: asyncio.Future[str] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._pipe: Pipe | None = None
        self._peer = peer_over(
            self._send, greeted=False, rebuild=untraced, on_hello=self._greeted, on_closed=self._broken
        )
        self.door = Stub(self._peer, 0, {})
        self._end, theirs = socket.socketpair()
        given = {
            "descriptor": theirs.fileno(), "path": sys.path, "factory": named,
            "folder": str(shard.folder), "number": shard.number, "count": shard.count,
        }  # fmt: skip
        warnings = [f"-W{each}" for each in sys.warnoptions]
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._end)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", *warnings, "-c", _PROGRAM, json.dumps(given)],
                    stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True,
                )  # fmt: skip
            stack.pop_all()
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._reap)

    async def opened(self) -> bool:
        """Until its host is open, or until it has ended without a word: then False. What was raised there is raised."""
        self._pipe = self._peer.pipe = await Pipe.over(
            self._end, self._peer.deliver, self._over, opening=zmtp.OPENING_OF_A_ROUTER
        )
        either: set[asyncio.Future[Any]] = {self._hello, self.lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._hello.done():
            return False
        if (error := self._hello.result()) is not None:
            raise error
        return True

    def kill(self) -> None:
        """End it as an accident would. Harmless when it has ended."""
        if not self._reaped.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self, error: Exception) -> str:
        """Let it close its host and end, with an error for whoever still waits or asks: how it did, in words."""
        self._peer.close(error)
        if self._pipe is not None:
            self._pipe.close()
        else:
            self._end.close()
        try:
            async with asyncio.timeout(CLOSING_SECONDS + _GRACE):
                return await asyncio.shield(self._reaped)
        except TimeoutError:
            self.kill()
            return await asyncio.shield(self._reaped)

    def _send(self, frame: bytes) -> None:
        if self._pipe is None:
            raise ConnectionClosed("the process was never reached")
        self._pipe.send(frame)

    def _greeted(self, payload: bytes) -> None:
        told = values.loads(payload, trusted=True)
        self._hello.set_result(None if told is None else untold(told))

    def _over(self, _: Exception | None) -> None:
        self._peer.close(self._gone)
        if not self.lost.done():
            self.lost.set_result(None)

    def _broken(self, error: Exception) -> None:
        """What it says cannot be understood; another one may be better."""
        if isinstance(error, RemoteProtocolError):
            self.kill()

    def _reap(self) -> None:
        """It has ended, and is not to stay as a zombie. What it has said is still read; more would be awaited as long
        as what it had forked holds its end of the connection."""
        with contextlib.suppress(OSError):  # closed, by either side
            self._end.shutdown(socket.SHUT_RD)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._process.wait()
        self._reaped.set_result(f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit {status}")


def following(delay: float) -> float:
    """How long to wait before the try after one that was waited for so long: the first is made at once."""
    return min(max(2 * delay, _FIRST_DELAY), _LONGEST_DELAY)


class Keeper:
    """Keeps one shard there, from `open` to `close`; for one that ends again soon it waits, longer each time. A call
    waits up to `patience` seconds for one that is to come back."""

    def __init__(self, shard: Shard, named: tuple[str, str, str], patience: float) -> None:
        self.shard = shard
        self._named, self._patience = named, patience
        self._door: asyncio.Future[Stub] = asyncio.get_running_loop().create_future()
        self._trouble = "it is being started"
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start it. What its function, or its host, raises when it is opened is raised; `ShardFailed` if it says
        nothing at all."""
        door = await self._begin()
        self._door.set_result(door)
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End it. Calls that are waiting raise `LoaderClosed`, as do later ones."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        self._close_door()
        if self._process is not None:
            await self._process.close(LoaderClosed(_CLOSED))

    async def ask(self, method: str, *args: Any, again: bool = False) -> Any:
        """Ask the shard's door, and raise what is raised there; `ShardLost`, unless asking `again` does no harm."""
        while True:
            door = self._door.result() if self._door.done() else await self._returned()
            try:
                done, value = await RemoteMethod(door, method)(*args)
            except ShardLost:
                await asyncio.sleep(0)  # until the keeper has heard of it
                if again:
                    continue
                raise ShardLost(
                    f"the process of shard {self.shard.number} ended while it was asked for {method}(): whether that "
                    "was done is not known; it is started again, and what it had acknowledged is on disk"
                ) from None
            if done:
                return value
            raise untold(value)

    def kill(self) -> None:
        """End its process, as an accident would: another one follows."""
        if self._process is not None:
            self._process.kill()

    def stream(self, method: str, *args: Any) -> Any:
        """The same for what gives one outcome after the other, from a shard that is there."""
        return RemoteMethod(self._door.result(), method)(*args)

    async def returned(self) -> None:
        """Until it is there."""
        if not self._door.done():
            await self._returned()

    async def _returned(self) -> Stub:
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(self._door)
        except TimeoutError:
            raise ShardFailed(
                f"shard {self.shard.number} has not come back within {self._patience:g} s: {self._trouble}"
            ) from None

    async def _begin(self) -> Stub:
        process = self._process = Process(self.shard, self._named)
        closed = LoaderClosed(_CLOSED)
        try:
            if await process.opened():
                return process.door
        except Exception as error:
            error.add_note(f"when shard {self.shard.number} of {self.shard.count} was opened, {self.shard.path}")
            await process.close(closed)
            raise
        ended = await process.close(closed)
        raise ShardFailed(
            f"the process of shard {self.shard.number} ended before it was open ({ended}); its standard error says why"
        )

    async def _keep(self) -> None:
        now, delay = asyncio.get_running_loop().time, 0.0
        while True:
            assert self._process is not None
            since = now()
            await self._process.lost
            lived = now() - since
            self._door = asyncio.get_running_loop().create_future()
            self._trouble = "its process has ended"
            ended = await self._process.close(LoaderClosed(_CLOSED))
            self._trouble = f"its process has ended: {ended}"
            delay = delay if lived < _LONGEST_DELAY else 0.0
            _log.error("shard %d: %s; another one is started in %.1f s", self.shard.number, self._trouble, delay)
            door, delay = await self._begun_again(delay)
            self._door.set_result(door)

    async def _begun_again(self, delay: float) -> tuple[Stub, float]:
        """The next one, tried after so many seconds; and after how many the one after that."""
        while True:
            await asyncio.sleep(delay)
            delay = following(delay)
            try:
                return await self._begin(), delay
            except Exception as error:  # noqa: BLE001 - whatever it is, it may be over by and by
                self._trouble = f"it cannot be opened: {type(error).__name__}: {error}"
                _log.error("shard %d: %s; tried again in %.1f s", self.shard.number, self._trouble, delay)

    def _close_door(self) -> None:
        if self._door.done():
            self._door = asyncio.get_running_loop().create_future()
        self._door.set_exception(LoaderClosed(_CLOSED))
        self._door.exception()
