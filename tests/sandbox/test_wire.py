"""The guest's end of the wire, on a socket that the test holds the other end of."""

from __future__ import annotations

import asyncio
import socket

from cloister.ipc import zmtp
from cloister.sandbox.guest.main import Wire


async def test_what_was_sent_while_the_loop_was_held_up_is_not_waited_for() -> None:
    """The loop was yet to be told to wait until there is room. It has nothing to do then, and does nothing."""
    loop = asyncio.get_running_loop()
    ours, its = socket.socketpair()
    with ours, its:
        wire = Wire(its, loop)
        try:
            data = zmtp.message(bytes(4 << 20))
            wire.write(data)
            assert wire.backlog()
            arrived = 0
            while wire.backlog():
                arrived += len(ours.recv(1 << 20))
                wire.pump(10)
            for _ in range(3):  # turns in which it would fail
                await asyncio.sleep(0)
            assert not loop.remove_writer(its)
            while arrived < len(data):
                arrived += len(ours.recv(1 << 20))
            wire.write(data)
            assert wire.backlog()
            await asyncio.sleep(0)
            assert loop.remove_writer(its), "nobody waits for room for what was sent after that"
        finally:
            loop.remove_writer(its)
