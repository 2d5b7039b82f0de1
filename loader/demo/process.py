"""The director's end of the host process: start it, give it orders, hear what it tells, kill it, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

_LONGEST_LINE: Final = 16 * 1024 * 1024
_GRACE: Final = 5.0
_PATIENCE: Final = 100.0  # of a busy machine


class DemoFailed(Exception):
    """The show cannot go on; the message says why."""


@asynccontextmanager
async def limit(seconds: float, what: str) -> AsyncIterator[None]:
    """Bound how long the block may take. `DemoFailed` says what did not come."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DemoFailed(f"{what} did not come within {seconds:.0f} s") from None


class HostProcess:
    """An async context manager. `hear` is called with each message that answers no order, and when it is gone."""

    def __init__(self, folder: Path, hear: Callable[[dict[str, Any]], None]) -> None:
        self._folder = folder
        self._hear = hear
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process
        self._ready: asyncio.Future[None]
        self._listening: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not await self._close() and error is None:
            raise DemoFailed(f"the host did not end within {_GRACE:.0f} s after its input had")

    async def start(self) -> None:
        """Start it on the folder and wait until it is ready. In a session of its own: Ctrl-C is the director's."""
        self._ready = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        with (self._folder / "host.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"{__package__}.host", str(self._folder),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                limit=_LONGEST_LINE, start_new_session=True,
            )  # fmt: skip
        self._listening = asyncio.create_task(self._listen())
        try:
            async with limit(_PATIENCE, "the host's first word"):
                await self._ready
        except BaseException:
            await self._close()
            raise

    def order(self, name: str, **arguments: Any) -> asyncio.Future[Any]:
        """Give an order. What is returned is done when it is carried out; `DemoFailed` if it could not be."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any longer
        if self._listening.done():
            answer.set_exception(DemoFailed(f"there is no host to {name}"))
            return answer
        number = next(self._numbers)
        self._asked[number] = answer
        message = {"number": number, "order": name, "arguments": arguments}
        self._writer.write(json.dumps(message).encode() + b"\n")  # to one that has just died: its output will end
        return answer

    async def kill(self) -> int:
        """`kill -9`. How many processes were below it, all of which are gone by now; `DemoFailed` if not."""
        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            raise DemoFailed("the host had ended before it could be killed") from None
        await self._end()
        async with limit(_GRACE, "the end of the processes below the host"):
            while any(map(_alive, below)):  # noqa: ASYNC110 - nobody tells of other people's processes
                await asyncio.sleep(0.01)
        return len(below)

    @property
    def _writer(self) -> asyncio.StreamWriter:
        assert self._process.stdin is not None
        return self._process.stdin

    async def _close(self) -> bool:
        """Let it end in order, which leaves nothing behind. False if it had to be killed."""
        try:
            self._writer.close()
            async with asyncio.timeout(_GRACE):
                await self._process.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            await self._end()

    async def _end(self) -> None:
        """Kill it if it is alive, and hear what it said last."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        """Hear it out. A line that was cut off by a kill is not a message."""
        assert self._process.stdout is not None
        try:
            while (line := await self._process.stdout.readline()).endswith(b"\n"):
                message = json.loads(line)
                if "answer" in message:
                    self._answered(message)
                    continue
                self._hear(message)
                if message["news"] == "ready" and not self._ready.done():
                    self._ready.set_result(None)
        finally:
            self._hear({"news": "gone"})
            for waiting in (self._ready, *self._asked.values()):
                if not waiting.done():
                    waiting.set_exception(DemoFailed("the host ended by itself"))
            self._asked.clear()

    def _answered(self, message: dict[str, Any]) -> None:
        answer = self._asked.pop(message["answer"])
        if answer.cancelled():
            return
        if "error" in message:
            answer.set_exception(DemoFailed(f"the host could not obey: {message['error']}"))
        else:
            answer.set_result(message["value"])


def _alive(process: psutil.Process) -> bool:
    """Whether it may still do something. In a container it can take init a while to bury the dead."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
