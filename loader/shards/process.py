"""The process of one shard, which is told in one argument what it is to be.

It opens the host that the service's function makes, says so, and answers the front until the front has gone. Then it
closes the host and ends: what runs is put aside, and goes on when the folder is opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from cloister.engine import EngineLocked
from cloister.ipc import ConnectionClosed, values, zmtp
from cloister.ipc.capabilities import serve
from cloister.ipc.pipe import Pipe

from ..host import Host
from . import factory
from .door import Door
from .place import Shard, lock_file, locked
from .told import tell, trace
from .wire import CLOSING_SECONDS, peer_over

_BEFORE: Final = CLOSING_SECONDS + 2.0
"""Seconds for which the one that had the file before, and whose front was killed, may still have it."""


async def live(given: dict[str, Any]) -> None:
    """From the first word to the last."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()

    def over(_: object) -> None:
        if not gone.done():
            gone.set_result(None)
            loop.call_later(CLOSING_SECONDS, os._exit, 1)

    os.set_inheritable(given["descriptor"], False)  # by what is started here
    pipe = await Pipe.over(
        socket.socket(fileno=given["descriptor"]), lambda frame: peer.deliver(frame), over, opening=zmtp.OPENING
    )
    peer = peer_over(pipe.send, greeted=True, on_closed=over, trace=trace)
    peer.pipe = pipe
    async with AsyncExitStack() as stack:
        stack.callback(pipe.close)
        opening = asyncio.ensure_future(_open(stack, given))
        gone.add_done_callback(lambda _: opening.cancel())
        told = None
        try:
            door = serve(Door(await opening))
            assert door is not None
            peer.exports.grant(door)
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - it is the front's to raise
            told = tell(error)
        with contextlib.suppress(ConnectionClosed):
            pipe.send(peer.connection.hello(values.dumps(told)))
        await gone
        peer.close(ConnectionClosed("the front has gone"))


async def _open(stack: AsyncExitStack, given: dict[str, Any]) -> Host:
    shard = Shard(Path(given["folder"]), given["number"], given["count"])
    lock = lock_file(shard.path.with_suffix(".lock"))
    stack.callback(os.close, lock)
    until = asyncio.get_running_loop().time() + _BEFORE
    while not locked(lock):
        if asyncio.get_running_loop().time() > until:
            raise EngineLocked(f"{shard.path} is still open in the process that had it before")
        await asyncio.sleep(0.02)
    return await stack.enter_async_context(await factory.made(factory.found(*given["factory"]), shard))


def main(given: dict[str, Any]) -> None:
    """What the process is there for."""
    for each in (signal.SIGINT, signal.SIGTERM):  # of a whole group: when to end is the front's to say
        signal.signal(each, lambda *_: None)  # and not ignored, which what is started here would go on with
    asyncio.run(live(given))
