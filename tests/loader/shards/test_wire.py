"""What goes from one end to the other: in order, and no more of it than is read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloister.ipc import ConnectionClosed, RpcTarget, zmtp
from cloister.ipc.pipe import MUCH, Pipe
from cloister.ipc.stubs import RemoteMethod, Stub
from cloister.loader.shards.wire import Far, peer_over

Eventually = Callable[[Callable[[], Any]], Awaitable[None]]


@asynccontextmanager
async def unread() -> AsyncIterator[tuple[Far, socket.socket]]:
    """One end, and a socket where what it says can be read."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    peer = peer_over(lambda frame: pipe.send(frame), greeted=True)
    over = asyncio.Event()
    pipe = peer.pipe = await Pipe.over(ours, peer.deliver, lambda _: over.set(), opening=zmtp.OPENING)
    with theirs:
        yield peer, theirs
        peer.close(ConnectionClosed("over"))
        pipe.close()
    await over.wait()


async def read(end: socket.socket, size: int) -> bytes:
    """So many bytes."""
    data = bytearray()
    while len(data) < size:
        data += await asyncio.get_running_loop().sock_recv(end, size - len(data))
    return bytes(data)


async def test_calls_that_are_given_up_do_not_pile_up_before_one_that_does_not_read(eventually: Eventually) -> None:
    """A tenant may make and give up as many as it likes: they wait where it has a bound. None of what was granted in
    them is left, and the others are made in their order when there is room."""
    async with unread() as (peer, other):
        stub, pipe = Stub(peer, 1, {}), peer.pipe
        assert pipe is not None
        calls = [asyncio.ensure_future(RemoteMethod(stub, "take")(bytes(MUCH))) for _ in range(2)]
        await eventually(lambda: pipe.full)
        for _ in range(100):
            call = asyncio.ensure_future(RemoteMethod(stub, "take")(bytes(MUCH // 8), RpcTarget()))
            await asyncio.sleep(0)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert peer.connection.calls_in_flight == 2
        assert len(peer.exports) == 0
        assert pipe._transport is not None
        assert pipe._transport.get_write_buffer_size() <= 3 * MUCH
        calls += [asyncio.ensure_future(RemoteMethod(stub, f"call{number}")()) for number in range(5)]
        await asyncio.sleep(0)
        assert peer.connection.calls_in_flight == 2
        said = await read(other, 2 * MUCH)
        while b"call4" not in said:
            said += await read(other, 1)
        places = [said.index(b"call%d" % number) for number in range(5)]
        assert places == sorted(places)
        peer.close(ConnectionClosed("over"))
        assert all(isinstance(each, ConnectionClosed) for each in await asyncio.gather(*calls, return_exceptions=True))


async def test_what_is_let_go_of_is_so_after_the_calls_of_it(eventually: Eventually) -> None:
    """Else one that waits would come to what is not granted any longer."""
    async with unread() as (peer, other):
        stub, pipe = Stub(peer, 1, {}), peer.pipe
        assert pipe is not None
        calls = [asyncio.ensure_future(RemoteMethod(stub, "take")(bytes(MUCH))) for _ in range(2)]
        await eventually(lambda: pipe.full)
        calls.append(asyncio.ensure_future(RemoteMethod(stub, "last")()))
        await asyncio.sleep(0)
        stub.dispose()
        for _ in range(5):
            await asyncio.sleep(0)
        said = await read(other, 2 * MUCH)
        released = zmtp.message(peer.connection.release(1, 1))
        while not said.endswith(released):
            said += await read(other, 1)
        assert b"last" in said
        peer.close(ConnectionClosed("over"))
        await asyncio.gather(*calls, return_exceptions=True)


async def test_what_is_let_go_of_waits_for_no_call_that_comes_later(eventually: Eventually) -> None:
    """Of which there may always be one more."""
    async with unread() as (peer, other):
        stub, pipe = Stub(peer, 1, {}), peer.pipe
        assert pipe is not None
        calls = [asyncio.ensure_future(RemoteMethod(stub, "take")(bytes(MUCH))) for _ in range(2)]
        await eventually(lambda: pipe.full)
        calls.append(asyncio.ensure_future(RemoteMethod(stub, "before")()))
        await asyncio.sleep(0)
        Stub(peer, 2, {}).dispose()
        for _ in range(5):
            await asyncio.sleep(0)
        calls.append(asyncio.ensure_future(RemoteMethod(stub, "after")()))
        said, released = await read(other, 2 * MUCH), zmtp.message(peer.connection.release(2, 1))
        while b"after" not in said:
            said += await read(other, 1)
        assert said.index(b"before") < said.index(released) < said.index(b"after")
        peer.close(ConnectionClosed("over"))
        await asyncio.gather(*calls, return_exceptions=True)


async def test_who_waits_for_room_hears_of_the_end(eventually: Eventually) -> None:
    """As whoever waits for an answer."""
    async with unread() as (peer, _):
        stub, pipe = Stub(peer, 1, {}), peer.pipe
        assert pipe is not None
        calls = [asyncio.ensure_future(RemoteMethod(stub, "take")(bytes(MUCH))) for _ in range(2)]
        await eventually(lambda: pipe.full)
        calls.append(asyncio.ensure_future(RemoteMethod(stub, "take")()))
        await asyncio.sleep(0)
        peer.close(ConnectionClosed("over"))
        pipe.close()
        assert all(isinstance(each, ConnectionClosed) for each in await asyncio.gather(*calls, return_exceptions=True))
