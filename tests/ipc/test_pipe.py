"""A pipe between two programs that trust one another: what goes together, how it ends, and that it says so once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloister.ipc import ConnectionClosed, zmtp
from cloister.ipc.errors import RemoteProtocolError
from cloister.ipc.pipe import MUCH, Pipe


class End:
    """One end, and what it has heard."""

    def __init__(self) -> None:
        self.pipe: Pipe
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost: list[Exception | None] = []
        self.over = asyncio.Event()

    def hear_the_end(self, error: RemoteProtocolError | None) -> None:
        """It is over."""
        self.lost.append(error)
        self.over.set()

    async def open(self, end: socket.socket, *, opening: bytes = zmtp.OPENING) -> None:
        """Over a socket."""
        self.pipe = await Pipe.over(end, self.frames.put_nowait, self.hear_the_end, opening=opening)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[End, End]]:
    """Both ends."""
    one, other = End(), End()
    left, right = socket.socketpair()
    await asyncio.gather(one.open(left, opening=zmtp.OPENING_OF_A_ROUTER), other.open(right))
    yield one, other
    for each in (one, other):
        each.pipe.close()
        await each.over.wait()


@asynccontextmanager
async def against_a_socket() -> AsyncIterator[tuple[End, socket.socket]]:
    """One end, and what it talks to by hand; what it opens with has been read."""
    one, (left, right) = End(), socket.socketpair()
    right.setblocking(False)
    with right:
        await one.open(left)
        await read(right, len(zmtp.OPENING))
        yield one, right
        one.pipe.close()
        await one.over.wait()


async def read(end: socket.socket, size: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < size:
        data += await asyncio.get_running_loop().sock_recv(end, size - len(data))
    return data


async def test_frames_arrive_whole_and_in_order_both_ways() -> None:
    """Of any length, and whatever they hold."""
    sent = [b"", b"a", bytes(255), bytes(256), b"\x04\x05READY", b"x" * 3_000_000, b"last"]
    async with two() as (one, other):
        for frame in sent:
            one.pipe.send(frame)
            other.pipe.send(frame + b"!")
        assert [await other.frames.get() for _ in sent] == sent
        assert [await one.frames.get() for _ in sent] == [frame + b"!" for frame in sent]


async def test_what_is_sent_in_one_turn_of_the_loop_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing waits for longer than that."""
    writes: list[bytes] = []
    async with two() as (one, other):
        transport = one.pipe._transport
        assert transport is not None
        monkeypatch.setattr(transport, "write", writes.append)
        for frame in (b"a", b"b", b"c"):
            one.pipe.send(frame)
        assert writes == []
        await asyncio.sleep(0)
        assert writes == [b"".join(map(zmtp.message, (b"a", b"b", b"c")))]
        one.pipe.send(b"d")
        await asyncio.sleep(0)
        assert writes[1:] == [zmtp.message(b"d")]
        monkeypatch.undo()
        one.pipe.send(b"e")
        assert await other.frames.get() == b"e"


async def test_what_was_sent_before_the_end_still_arrives() -> None:
    """However large it is, and though it was not written yet."""
    async with two() as (one, other):
        large = b"x" * 5_000_000
        one.pipe.send(large)
        one.pipe.send(b"goodbye")
        one.pipe.close()
        assert await other.frames.get() == large
        assert await other.frames.get() == b"goodbye"
        await other.over.wait()
        assert other.frames.empty()


async def test_after_the_end_nothing_can_be_sent() -> None:
    """Whichever side has ended it."""
    async with two() as (one, other):
        one.pipe.close()
        with pytest.raises(ConnectionClosed):
            one.pipe.send(b"late")
        await other.over.wait()
        with pytest.raises(ConnectionClosed):
            other.pipe.send(b"late")


async def test_each_side_is_told_of_the_end_once() -> None:
    """With nothing, as it was nobody's fault; to end it again does no harm."""
    async with two() as (one, other):
        one.pipe.close()
        one.pipe.close()
        await one.over.wait()
        await other.over.wait()
        one.pipe.close()
        other.pipe.close()
        await asyncio.sleep(0)
    assert one.lost == other.lost == [None]


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n" * 8,
        zmtp.OPENING + b"\x08\x00",
        zmtp.OPENING + b"\x01\x01a\x00\x01b",
        zmtp.GREETING + zmtp.message(b"too early"),
        zmtp.OPENING + b"\x02" + (1 << 40).to_bytes(8, "big"),
        zmtp.OPENING + b"\x04\x06\x05ERROR",
    ],
)
async def test_what_is_not_zmtp_ends_it(words: bytes) -> None:
    """With what was wrong with it, once, and nothing that follows is read."""
    async with against_a_socket() as (one, peer):
        await asyncio.get_running_loop().sock_sendall(peer, words)
        await one.over.wait()
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
    (error,) = one.lost
    assert isinstance(error, RemoteProtocolError)


async def test_a_ping_is_answered() -> None:
    """As the protocol asks, with what came with it."""
    async with against_a_socket() as (one, peer):
        ping = b"\x04PING\x00\x00like"
        await asyncio.get_running_loop().sock_sendall(peer, zmtp.OPENING + bytes((4, len(ping))) + ping)
        pong = b"\x04PONGlike"
        assert await read(peer, 2 + len(pong)) == bytes((4, len(pong))) + pong
        assert one.lost == []


async def test_a_reset_is_an_end_like_any_other() -> None:
    """The other program was killed with something unread."""
    async with against_a_socket() as (one, peer):
        one.pipe.send(b"never read")
        await asyncio.sleep(0)
        peer.close()
        await one.over.wait()
        with pytest.raises(ConnectionClosed):
            one.pipe.send(b"late")
    assert one.lost == [None]


async def test_who_cannot_take_a_frame_is_told_of_as_a_fault_of_the_program() -> None:
    """And the pipe is over, as nobody knows where it stands."""
    faults: list[dict[str, Any]] = []
    loop, one, (left, right) = asyncio.get_running_loop(), End(), socket.socketpair()
    before: Callable[..., Any] | None = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: faults.append(context))

    def fail(_: bytes) -> None:
        raise LookupError("no")

    try:
        with right:
            one.pipe = await Pipe.over(left, fail, one.hear_the_end, opening=zmtp.OPENING)
            right.sendall(zmtp.OPENING + zmtp.message(b"a"))
            await one.over.wait()
    finally:
        loop.set_exception_handler(before)
    assert [str(fault["exception"]) for fault in faults] == ["no"]
    assert one.lost == [None]


async def test_a_loop_that_is_closed_by_whoever_ended_it_has_nothing_left() -> None:
    """The socket is the pipe's, which closes it."""
    async with two() as (one, other):
        transports = [each.pipe._transport for each in (one, other)]
        sockets = [transport.get_extra_info("socket") for transport in transports if transport is not None]
    assert [each.fileno() for each in sockets] == [-1, -1]


async def test_there_is_no_room_while_much_is_unread(until: Callable[[Callable[[], object]], Any]) -> None:
    """Whoever can wait hears when the other end has read it, or will not."""
    async with against_a_socket() as (one, socket):
        frame = bytes(MUCH // 4)
        assert not one.pipe.full
        for _ in range(6):
            one.pipe.send(frame)
        waiting = asyncio.ensure_future(one.pipe.room())
        await until(lambda: one.pipe.full)
        await asyncio.sleep(0)
        assert not waiting.done()
        await read(socket, 6 * len(zmtp.message(frame)))
        await waiting
        assert not one.pipe.full
        for _ in range(6):
            one.pipe.send(frame)
        await until(lambda: one.pipe.full)
        waiting = asyncio.ensure_future(one.pipe.room())
        await asyncio.sleep(0)
        one.pipe.close()
        await waiting
        await read(socket, 6 * len(zmtp.message(frame)))
