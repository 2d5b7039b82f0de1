"""Both transports with real sockets: who is who, what happens when a guest goes or misbehaves, and what is left."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import itertools
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from cloister.ipc import ConnectionClosed, RemoteProtocolError, TooManyCalls, codec, zmtp
from cloister.ipc.link import Link, Transport
from cloister.ipc.router import Router
from cloister.ipc.sockets import MAX_UNSENT, SocketLink, Sockets

Until = Callable[[Callable[[], object]], Any]
Make = Callable[[], Transport]


MAKES: list[Make] = [Sockets, Router]


@pytest.fixture(params=MAKES, ids=["sockets", "libzmq"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes one of the transports."""
    kind: Make = request.param
    return kind


class Guest:
    """A guest at the end of a real socket, and the host's link to it."""

    def __init__(self) -> None:
        self.reader = zmtp.Reader()
        self.heard: list[bytes] = []
        self.on_frame: Callable[[bytes], None] = self.heard.append
        self.lost = 0
        self.error: RemoteProtocolError | None = None
        self.link: Link
        self.connection: socket.socket

    def on_lost(self, error: RemoteProtocolError | None) -> None:
        self.lost += 1
        self.error = error

    async def meet(self, transport: Transport, opening: bytes = zmtp.OPENING) -> Guest:
        """Take this end of a link, and go through the handshake of both sides."""
        loop = asyncio.get_running_loop()
        self.link, self.connection = await transport.lay(
            lambda frame: self.on_frame(frame), lambda error: self.on_lost(error)
        )
        self.connection.setblocking(False)
        await self.write(opening)
        while not self.reader.ready:
            self.reader.feed(await loop.sock_recv(self.connection, 65536))
        return self

    async def write(self, data: bytes) -> None:
        async with asyncio.timeout(100):
            await asyncio.get_running_loop().sock_sendall(self.connection, data)

    async def say(self, frame: bytes) -> None:
        await self.write(zmtp.message(frame))

    async def read(self) -> bytes:
        """The next frame."""
        async with asyncio.timeout(100):
            while True:
                data = await asyncio.get_running_loop().sock_recv(self.connection, 65536)
                if not data:
                    raise EOFError
                frames, _ = self.reader.feed(data)
                if frames:
                    assert len(frames) == 1
                    return frames[0]


@asynccontextmanager
async def guests(count: int, make: Make) -> AsyncIterator[tuple[Transport, list[Guest]]]:
    transport = make()
    made = [Guest() for _ in range(count)]
    try:
        yield transport, [await guest.meet(transport) for guest in made]
    finally:
        transport.close()
        for guest in made:
            guest.connection.close()


async def test_frames_go_both_ways_to_the_right_guest(make: Make, until: Until) -> None:
    """Empty, short and long ones, in order."""
    frames = [b"", b"short", b"x" * 300, b"y" * 5_000_000, b"end"]
    async with guests(3, make) as (_, all_of_them):
        for n, guest in enumerate(all_of_them):
            for frame in frames:
                guest.link.send(frame + b"%d" % n)
                assert await guest.read() == frame + b"%d" % n
        await asyncio.gather(*(guest.say(frame) for guest in all_of_them for frame in (b"up",)))
        for frame in frames:
            await all_of_them[1].say(frame)
        await until(lambda: all(guest.heard for guest in all_of_them) and len(all_of_them[1].heard) == 6)
        assert all_of_them[0].heard == [b"up"]
        assert all_of_them[1].heard == [b"up", *frames]


async def test_what_waits_while_nobody_sends_is_read_to_the_end(make: Make, until: Until) -> None:
    """The descriptor tells of a change once; thousands of frames may be behind it."""
    async with guests(1, make) as (_, [guest]):
        await guest.write(b"".join(zmtp.message(b"%d" % n) for n in range(5000)))
        await until(lambda: len(guest.heard) == 5000)
        assert guest.heard == [b"%d" % n for n in range(5000)]


async def test_a_guest_cannot_say_who_it_is(make: Make, until: Until) -> None:
    """The host knows whom it has connected to; what a guest claims in its handshake is passed over."""
    router = make()
    honest = await Guest().meet(router)
    claim = b"\x05READY" + zmtp._property(b"Socket-Type", b"DEALER") + zmtp._property(b"Identity", b"1")
    liar = await Guest().meet(router, zmtp.GREETING + bytes([4, len(claim)]) + claim)
    await liar.say(b"lie")
    await until(lambda: liar.heard == [b"lie"])
    honest.link.send(b"secret")
    assert await honest.read() == b"secret"
    assert honest.heard == []
    router.close()
    honest.connection.close()
    liar.connection.close()


async def test_a_guest_that_goes_is_told_of_once_after_its_last_words(make: Make, until: Until) -> None:
    """And sending to it is an error from then on, never a hang."""
    async with guests(2, make) as (_, [leaver, neighbour]):
        await leaver.say(b"last words")
        leaver.connection.close()
        await until(lambda: leaver.lost)
        assert leaver.heard == [b"last words"]
        with pytest.raises(ConnectionClosed):
            leaver.link.send(b"anyone?")
        leaver.link.close()
        leaver.link.close()
        neighbour.link.send(b"still there?")
        assert await neighbour.read() == b"still there?"
        assert (leaver.lost, neighbour.lost) == (1, 0)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">BQ", 2, codec.MAX_FRAME + 1) + bytes(100),
        struct.pack(">BQ", 2, 2**63 - 1) + bytes(100),
        struct.pack(">BQ", 2, 2**64 - 1) + bytes(100),
        b"\xff" * 100,
    ],
    ids=["a byte too large", "exabytes", "all of them", "garbage"],
)
async def test_what_is_no_frame_ends_that_link_only(make: Make, until: Until, data: bytes) -> None:
    """No memory is set aside for a length that a guest claims; its neighbours go on."""
    async with guests(2, make) as (_, [hostile, neighbour]):
        await hostile.write(data)
        await until(lambda: hostile.lost)
        with pytest.raises(ConnectionClosed):
            hostile.link.send(b"x")
        await neighbour.say(b"fine")
        await until(lambda: neighbour.heard == [b"fine"])
        neighbour.link.send(b"fine")
        assert await neighbour.read() == b"fine"
        assert neighbour.lost == 0


async def test_how_long_a_frame_has_been_on_its_way_is_known(make: Make, until: Until) -> None:
    """From its first byte, whatever comes of it meanwhile; what is between frames is no time at all."""
    async with guests(1, make) as (_, [guest]):
        now, link = 0.0, guest.link
        loop = asyncio.get_running_loop()
        await until(lambda: link._reader.ready)
        link._loop = Clock(loop, lambda: now)  # type: ignore[assignment]
        assert link.unfinished_for() < 0
        await guest.write(zmtp.message(b"a") + struct.pack(">BQ", 2, 300) + bytes(100))
        await until(lambda: guest.heard)
        now = 50.0
        assert link.unfinished_for() == 50
        arrived: list[int] = []
        link.on_bytes = arrived.append
        await guest.write(bytes(100))
        await until(lambda: arrived)
        assert link.unfinished_for() == 50
        await guest.write(bytes(100) + struct.pack(">BQ", 2, 300) + bytes(100))
        await until(lambda: len(guest.heard) == 2)
        now = 60.0
        assert link.unfinished_for() == 10
        await guest.write(bytes(200))
        await until(lambda: len(guest.heard) == 3)
        assert link.unfinished_for() < 0


class Clock:
    """A loop whose time is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, time: Callable[[], float]) -> None:
        self._loop, self.time = loop, time

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_the_largest_frame_is_taken(make: Make, until: Until) -> None:
    """Nothing that may be sent is refused by the transport."""
    async with guests(1, make) as (_, [guest]):
        await guest.say(bytes(codec.MAX_FRAME))
        await until(lambda: guest.heard)
        assert len(guest.heard[0]) == codec.MAX_FRAME


async def test_a_message_of_several_parts_is_no_frame(make: Make, until: Until) -> None:
    """Nor is it collected until its last part comes: the first one ends the link."""
    async with guests(1, make) as (_, [guest]):
        await guest.write(b"\x01\x01a")
        await until(lambda: guest.lost)
        assert guest.heard == []
        assert "several parts" in str(guest.error)


async def test_a_guest_that_is_not_read_has_to_wait(make: Make) -> None:
    """What it may send ahead of being read is bounded, whatever it is; the rest stays with it."""
    async with guests(1, make) as (_, [guest]):
        sent, blocked = 0, 0
        while blocked < 200:  # libzmq takes some of it in a thread of its own
            try:
                sent += guest.connection.send(bytes(4000))
                blocked = 0
            except BlockingIOError:
                blocked += 1
                time.sleep(0.001)  # noqa: ASYNC251 - that the loop stands still is the point
        assert sent < 4 << 20


async def test_every_piece_is_told_of(make: Make, until: Until) -> None:
    """So that somebody can count what a guest sends, also what never becomes a frame."""
    async with guests(1, make) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)
        sizes: list[int] = []
        guest.link.on_bytes = sizes.append
        await guest.write(struct.pack(">BQ", 2, 100_000) + bytes(50_000))
        await until(lambda: sum(sizes) == 9 + 50_000)
        assert guest.heard == []


async def test_a_guest_that_does_not_read_is_told_of_and_harms_nobody(make: Make) -> None:
    """Its queue is full at some point; everybody else's is not."""
    async with guests(2, make) as (_, [deaf, neighbour]):

        def fill() -> None:
            for _ in range(10_000):
                deaf.link.send(bytes(100_000))

        with pytest.raises(TooManyCalls):
            fill()
        neighbour.link.send(b"you too?")
        assert await neighbour.read() == b"you too?"


async def test_a_guest_with_libzmq_understands_a_plain_socket(tmp_path: Path, until: Until) -> None:
    """Frames of every size, in both directions: it is the same protocol."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.bind(f"ipc://{tmp_path}/guest")
        sockets, heard = Sockets(), list[bytes]()
        end = socket.socket(socket.AF_UNIX)
        end.connect(f"{tmp_path}/guest")
        end.setblocking(False)
        shared = sockets._unread, sockets._vigil, sockets._arriving
        link = SocketLink(sockets._links, end, heard.append, lambda _: None, MAX_UNSENT, *shared)
        await until(lambda: link._reader.ready)
        for frame in (b"", b"short", b"x" * 300, b"y" * 5_000_000):
            link.send(frame)
            assert await asyncio.to_thread(dealer.recv) == frame
            dealer.send(frame)
            await until(lambda: heard)
            assert heard.pop() == frame
        sockets.close()


async def test_a_flood_makes_nobody_wait_for_more_than_a_little_of_it(until: Until) -> None:
    """However much of it lies ready: each guest is read a piece at a time, in turn."""
    async with guests(2, Sockets) as (_, [flood, neighbour]):
        flood.connection.send(zmtp.message(b"x") * 30_000)
        neighbour.connection.send(zmtp.message(b"y"))
        heard_before: list[int] = []
        neighbour.on_frame = lambda _: heard_before.append(len(flood.heard))
        await until(lambda: heard_before and len(flood.heard) == 30_000)
        assert heard_before[0] <= 2 * 8192 // len(zmtp.message(b"x"))


async def test_a_guest_that_was_gone_before_it_was_met_is_told_of_too(make: Make, until: Until) -> None:
    """That is its end, and no error of the host's; of one that was given up meanwhile nothing is told."""
    transport, lost = make(), list[object]()
    for close in (False, True):
        link, end = await transport.lay(lambda _: None, lost.append)
        end.close()
        if close:
            link.close()
    await until(lambda: lost)
    assert lost == [None]
    transport.close()


async def test_where_no_more_can_be_watched_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has a bound for each user, which others may have reached."""
    transport, loop = Sockets(), asyncio.get_running_loop()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    before = _descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "add_reader", full)
        with pytest.raises(OSError, match="no space left"):
            await transport.lay(lambda _: None, lambda _: None)
    assert not transport._links
    assert _descriptors() == before


async def test_links_may_be_laid_in_the_loops_of_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have several hosts. Neither is in the way of the other, whenever each gets its turn."""
    transport, loop, laid = Sockets(), asyncio.get_running_loop(), list[str]()
    add_reader = loop.add_reader

    async def lay(transport: Sockets, who: str) -> None:
        _, end = await transport.lay(lambda _: None, lambda _: None)
        end.close()
        laid.append(who)
        transport.close()

    async def lay_there() -> None:
        await lay(Sockets(), "there")

    def meanwhile(*what: Any) -> None:
        other = threading.Thread(target=lambda: asyncio.run(lay_there()))
        other.start()
        other.join()
        add_reader(*what)

    monkeypatch.setattr(loop, "add_reader", meanwhile)
    await lay(transport, "here")
    assert laid == ["there", "here"]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_large_frame_comes_in_large_pieces(until: Until) -> None:
    """What can be no more than one frame costs nobody a turn for each little piece of it."""
    async with guests(1, Sockets) as (_, [guest]):
        sizes: list[int] = []
        guest.link.on_bytes = sizes.append
        await guest.say(bytes(4 << 20))
        await until(lambda: guest.heard)
        assert len(sizes) < 4 << 20 >> 14


async def test_a_guest_that_goes_with_its_queue_full_is_told_of_as_gone(until: Until) -> None:
    """What waited for it is dropped, and its last words are read."""
    async with guests(1, Sockets) as (_, [leaver]):
        leaver.link.send(bytes(10 << 20))
        await leaver.say(b"last words")
        leaver.connection.close()
        await until(lambda: leaver.lost)
        assert (leaver.heard, leaver.lost, leaver.error) == ([b"last words"], 1, None)


async def test_a_frame_that_cannot_be_handled_costs_its_own_link_only(make: Make, until: Until) -> None:
    """The others' frames that wait behind it are read; the loop hears of the error."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

    def fail(_: bytes) -> None:
        raise RuntimeError("a bug of the host's")

    async with guests(2, make) as (_, [troubled, neighbour]):
        troubled.on_frame = fail
        await troubled.write(zmtp.message(b"x") * 10)
        await neighbour.write(zmtp.message(b"y") * 10)
        await until(lambda: len(neighbour.heard) == 10)
        await until(lambda: troubled.lost)
    assert "a bug of the host's" in str(unheard[0]["exception"])


async def test_a_closed_link_keeps_nothing_of_a_frame_that_was_on_its_way(make: Make, until: Until) -> None:
    """Whoever still holds the link: the garbage collector may come late."""
    async with guests(1, make) as (_, [guest]):
        link: Any = guest.link
        await until(lambda: link._reader.ready)
        await guest.write(zmtp.message(bytes(100_000))[:50_000])
        await until(lambda: len(link._reader._buffer) == 50_000)
        link.close()
        assert len(link._reader._buffer) == 0


async def test_a_closed_link_hears_nothing_more(make: Make, until: Until) -> None:
    """What the guest said meanwhile is dropped, and its end is no news."""
    async with guests(2, make) as (_, [gone, neighbour]):
        gone.link.close()
        with pytest.raises(ConnectionClosed):
            gone.link.send(b"x")
        await neighbour.say(b"y")
        await until(lambda: neighbour.heard == [b"y"])
        assert (gone.heard, gone.lost) == ([], 0)


async def test_nothing_is_left_when_it_is_closed(make: Make) -> None:
    """Descriptors of thirty links and of the context; closing again is harmless, and sending an error."""

    async def once() -> None:
        async with guests(30, make) as (transport, all_of_them):
            all_of_them[3].connection.close()
            link = all_of_them[0].link
        transport.close()
        with pytest.raises(ConnectionClosed):
            link.send(b"x")

    await once()
    before = open_files()
    await once()
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_what_is_kept_for_a_guest_that_does_not_read_is_bounded() -> None:
    """And a short word still finds room when a long one does not."""
    async with guests(1, Sockets) as (_, [deaf]):
        link: Any = deaf.link

        def fill() -> None:
            for _ in range(100):
                link.send(bytes(4 << 20))

        with pytest.raises(TooManyCalls):
            fill()
        assert len(link._unsent) <= MAX_UNSENT
        link.send(b"there was no room")
        with pytest.raises(TooManyCalls):
            link.send(bytes(4 << 20))


async def test_who_has_much_unread_is_not_listened_to_until_it_has_read_it(until: Until) -> None:
    """Also what has come in the same breath waits; then all of it is heard, in order."""
    async with guests(1, Sockets) as (_, [guest]):
        link: Any = guest.link
        await until(lambda: link._reader.ready)
        heard: list[bytes] = []

        def answer(frame: bytes) -> None:
            heard.append(frame)
            if frame != b"last":
                link.send(bytes(3 << 20))

        link.on_frame = answer
        await guest.write(b"".join(zmtp.message(b"%d" % number) for number in range(3)))
        await until(lambda: heard)
        await guest.write(zmtp.message(b"last"))
        await asyncio.sleep(0)
        assert heard == [b"0"]
        loop = asyncio.get_running_loop()
        read = 0
        while read < 9 << 20:
            read += len(await loop.sock_recv(guest.connection, 1 << 20))
        await until(lambda: b"last" in heard)
        assert heard == [b"0", b"1", b"2", b"last"]
        assert link.unread() == 0


async def test_who_is_not_listened_to_is_heard_of_when_it_has_gone(until: Until) -> None:
    """It leaves nothing behind."""
    async with guests(1, Sockets) as (transport, [guest]):
        link: Any = guest.link
        lost: list[Any] = []
        link.on_lost = lost.append
        link.send(bytes(4 << 20))
        assert link._stuffed
        guest.connection.close()
        await until(lambda: lost)
        assert lost == [None]
        assert vars(transport)["_unread"]._bytes == 0


async def test_a_heartbeat_is_answered(make: Make) -> None:
    """As the protocol asks for, whoever does the asking."""
    async with guests(1, make) as (_, [guest]):
        await guest.write(b"\x04\x09\x04PING\x00\x0aab")
        async with asyncio.timeout(100):
            said = await asyncio.get_running_loop().sock_recv(guest.connection, 100)
        assert said == b"\x04\x07\x04PONGab"


async def test_of_commands_is_told_how_many_there_were(make: Make, until: Until) -> None:
    """They cost the host as much to look at as messages, and nobody needs more than one at once."""
    async with guests(1, make) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)
        told: list[int] = []
        guest.link.on_commands = told.append
        await guest.write(b"\x04\x00" * 1000)
        await until(lambda: sum(told) >= 1000)
        assert sum(told) == 1000


async def test_of_a_long_message_is_told_when_it_begins(make: Make, until: Until) -> None:
    """What it is and how long it will be, while next to nothing of it is kept."""
    async with guests(1, make) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)
        told: list[tuple[int, int]] = []
        guest.link.on_begun = lambda mark, size: told.append((mark, size))
        await guest.write(zmtp.message(b"7" + bytes(2_000_000))[:10_000])
        await until(lambda: told)
        assert told[0] == (ord("7"), 2_000_001)
        assert guest.heard == []


async def test_of_a_long_message_is_told_though_its_size_comes_by_itself(make: Make, until: Until) -> None:
    """Once, as soon as it is known what it is."""
    async with guests(1, make) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)
        told: list[tuple[int, int]] = []
        guest.link.on_begun = lambda mark, size: told.append((mark, size))
        pieces = list[int]()
        guest.link.on_bytes = pieces.append
        whole = zmtp.message(b"7" + bytes(2_000_000))
        for start, end in ((0, 5), (5, 9), (9, 10_000), (10_000, 20_000)):
            pieces.clear()
            await guest.write(whole[start:end])
            await until(lambda: sum(pieces))
        assert told == [(ord("7"), 2_000_001)]


async def test_who_finds_no_room_for_a_large_frame_waits_until_there_is_some(until: Until) -> None:
    """In the order in which they came; what is small needs none. Nothing is lost."""
    room = 1_000_100
    async with guests(4, lambda: Sockets(max_arriving=room)) as (_, [first, second, third, small]):
        await until(lambda: all(guest.link._reader.ready for guest in (first, second, third, small)))
        large = {
            guest: zmtp.message(bytes([number]) * 1_000_000) for number, guest in enumerate((first, second, third))
        }
        links: dict[Guest, Any] = {guest: guest.link for guest in large}
        await first.write(large[first][:20_000])
        await until(lambda: len(links[first]._reader._buffer) == 20_000)
        said = [asyncio.ensure_future(guest.write(large[guest])) for guest in (second, third)]
        await until(lambda: links[second]._crowded and links[third]._crowded)
        await small.say(b"small")
        await until(lambda: small.heard)
        assert max(len(links[guest]._reader._buffer) for guest in (second, third)) <= 8192
        assert links[second].unfinished_for() == 0
        await first.write(large[first][20_000:])
        await until(lambda: all(guest.heard for guest in large))
        await asyncio.gather(*said)
        assert [guest.heard[0] for guest in large] == [bytes([number]) * 1_000_000 for number in range(3)]


async def test_who_keeps_others_out_with_a_frame_that_it_does_not_finish_has_to_leave(until: Until) -> None:
    """Nobody before somebody waits. Who is gone takes up no room either, waiting or not."""
    async with guests(4, lambda: Sockets(max_arriving=1_000_100)) as (_, [idle, gone, waits, last]):
        await until(lambda: all(guest.link._reader.ready for guest in (idle, gone, waits, last)))
        whole = zmtp.message(bytes(1_000_000))
        links: list[Any] = [guest.link for guest in (idle, gone, waits)]
        await idle.write(whole[:20_000])
        await until(lambda: len(links[0]._reader._buffer) == 20_000)
        await gone.write(whole[:20_000])
        await until(lambda: links[1]._crowded)
        links[1].close()
        await asyncio.gather(waits.write(whole), until(lambda: waits.heard))
        assert idle.lost == 1
        assert "and not finished, and all sandboxes together have begun too much" in str(idle.error)
        assert waits.lost == 0
        await asyncio.gather(last.write(whole), until(lambda: last.heard))


async def test_of_short_messages_that_come_in_heaps_few_are_taken_at_a_time(until: Until) -> None:
    """They take longer to look at than to receive. Who sends longer ones again is read in larger pieces again."""
    async with guests(1, Sockets) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)
        sizes: list[int] = []
        guest.link.on_bytes = sizes.append
        await guest.write(zmtp.message(b"x" * 40) * 2000)
        await until(lambda: len(guest.heard) == 2000)
        assert max(sizes[1:]) <= 1024
        sizes.clear()
        await guest.write(zmtp.message(b"x" * 1000) * 100)
        await until(lambda: len(guest.heard) == 2100)
        assert max(sizes) > 1024


async def test_a_guest_that_is_held_is_not_read_and_loses_nothing(until: Until) -> None:
    """What it says waits in the kernel, and then with it; another guest does not wait. The longest hold counts."""
    async with guests(2, Sockets) as (_, [held, other]):
        await until(lambda: held.link._reader.ready and other.link._reader.ready)
        now = asyncio.get_running_loop().time
        began, heard = now(), list[float]()
        held.on_frame = lambda _: heard.append(now())
        assert held.link.hold(0.01)
        assert held.link.hold(0.08)
        assert held.link.hold(0.02)
        await held.say(b"late")
        await other.say(b"in time")
        await until(lambda: other.heard)
        await until(lambda: heard)
        assert heard[0] - began >= 0.08


async def test_a_guest_that_is_held_can_be_let_go_and_closed(until: Until) -> None:
    """At once; and after the end nothing is watched that may be another's."""
    async with guests(2, Sockets) as (_, [released, closed]):
        await until(lambda: released.link._reader.ready and closed.link._reader.ready)
        for guest in (released, closed):
            guest.link.hold(3600)
            await guest.say(b"last words")
            guest.connection.close()
        released.link.release()
        await until(lambda: released.lost)
        assert released.heard == [b"last words"]
        assert (released.link.held_for(), closed.link.held_for() > 3000) == (0.0, True)
        closed.link.close()
        closed.link.release()
        closed.link.hold(0.0)
        assert (closed.heard, closed.lost) == ([], 0)


async def test_who_is_held_has_its_time_for_a_frame_all_the_same(until: Until) -> None:
    """It could not finish it meanwhile, and is not ended for that."""
    async with guests(1, Sockets) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)
        now = asyncio.get_running_loop().time
        began = now()
        await guest.write(zmtp.message(b"x" * 3000)[:1000])
        await until(lambda: guest.link._reader.missing)
        guest.link.hold(0.3)
        held = now()
        await until(lambda: now() > held + 0.2)
        assert guest.link.unfinished_for() <= held - began
        await until(lambda: not guest.link.held_for())
        assert guest.link.unfinished_for() <= now() - began - 0.3


async def test_nothing_of_the_time_for_which_it_is_held_counts_as_its_own(until: Until) -> None:
    """However long the host takes over holding it: here each look at the clock takes a second."""
    async with guests(1, Sockets) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)
        seconds = itertools.count(1000.0)
        guest.link._loop = Clock(asyncio.get_running_loop(), lambda: next(seconds))  # type: ignore[assignment]
        await guest.write(zmtp.message(b"x" * 3000)[:1000])
        await until(lambda: guest.link._reader.missing)
        before = next(seconds)
        guest.link.hold(3600)
        assert guest.link.unfinished_for() == before + 1 - guest.link._begun


async def test_who_was_let_go_is_not_held_again(until: Until) -> None:
    """It is gone, and what there is of it is read to the end, however much it counts."""
    async with guests(1, Sockets) as (_, [guest]):
        await until(lambda: guest.link._reader.ready)

        def hold(_: int) -> None:
            guest.link.hold(3600)

        guest.link.on_bytes = hold
        await guest.write(zmtp.message(b"x" * 1000) * 40)
        guest.connection.close()
        await until(lambda: guest.link.held_for())
        guest.link.release()
        await until(lambda: guest.lost)
        assert len(guest.heard) == 40


async def test_where_libzmq_moves_the_bytes_nobody_is_held() -> None:
    """It reads ahead of whoever asks."""
    async with guests(1, Router) as (_, [guest]):
        assert guest.link.hold(1.0) is False
        guest.link.release()


async def test_what_a_guest_says_is_part_of_nobodys_request(make: Make, until: Until) -> None:
    """Whoever it was for whom the connection was made, or who spoke last."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    user.set("alice")
    heard: list[str] = []
    async with guests(2, make) as (_, both):
        for guest in both:
            guest.on_frame = lambda _: heard.append(user.get())
            guest.link.send(b"hello")
        for guest in both:
            await guest.say(b"hello")
        await until(lambda: len(heard) == 2)
    assert heard == ["nobody", "nobody"]


async def test_what_is_said_while_the_loop_only_looks_for_an_answer_goes_at_once(until: Until) -> None:
    """A look is nobody who may have something to say in the same turn."""
    async with guests(1, Sockets) as (_, (guest,)):
        link = guest.link
        assert isinstance(link, SocketLink)
        await guest.say(b"up")
        await until(lambda: guest.heard)
        link._vigil.sent()
        assert link._vigil.awake
        link.send(b"at once")
        assert guest.connection.recv(64) == zmtp.message(b"at once")


async def test_what_several_say_to_a_guest_in_one_turn_goes_together() -> None:
    """In order, and in one piece: each piece would wake the guest."""

    async def say(guest: Guest, frame: bytes) -> None:
        guest.link.send(frame)

    async with guests(2, Sockets) as (_, both):
        await asyncio.gather(*(say(guest, b"%d" % n) for n in range(10) for guest in both))
        for guest in both:
            data = await asyncio.get_running_loop().sock_recv(guest.connection, 65536)
            assert data == b"".join(zmtp.message(b"%d" % n) for n in range(10))


async def test_a_large_frame_among_them_keeps_its_place() -> None:
    """Even if the guest cannot take it at once."""
    frames = [b"first", bytes(2 << 20), b"last"]

    async def say(guest: Guest, frame: bytes) -> None:
        guest.link.send(frame)

    async with guests(1, Sockets) as (_, [guest]):
        await asyncio.gather(*(say(guest, frame) for frame in frames))
        heard: list[bytes] = []
        while len(heard) < len(frames):
            data = await asyncio.get_running_loop().sock_recv(guest.connection, 1 << 20)
            heard += guest.reader.feed(data)[0]
        assert heard == frames


async def test_what_is_gathered_goes_in_one_piece_some_turns_later() -> None:
    """However it comes within them, and nothing of it before. If there is nothing to send, nothing is sent."""
    async with guests(1, Sockets) as (_, [guest]):
        guest.link.gather(3)
        guest.link.send(b"code")
        for call in (b"first", b"second"):
            await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                guest.connection.recv(64)
            guest.link.send(call)
        data = await asyncio.get_running_loop().sock_recv(guest.connection, 65536)
        assert data == b"".join(map(zmtp.message, (b"code", b"first", b"second")))
        guest.link.gather(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        guest.link.send(b"by itself")
        assert await asyncio.get_running_loop().sock_recv(guest.connection, 65536) == zmtp.message(b"by itself")


async def test_what_is_gathered_waits_behind_what_a_guest_has_unread() -> None:
    """In its place; and who is gone is sent nothing."""
    frames = [bytes(2 << 20), b"code", b"first"]
    async with guests(1, Sockets) as (_, [guest]):
        guest.link.send(frames[0])
        guest.link.gather(1)
        for frame in frames[1:]:
            guest.link.send(frame)
        heard: list[bytes] = []
        while len(heard) < len(frames):
            data = await asyncio.get_running_loop().sock_recv(guest.connection, 1 << 20)
            heard += guest.reader.feed(data)[0]
        assert heard == frames
        guest.link.gather(1)
        guest.link.send(b"too late")
        guest.link.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert guest.connection.recv(64) == b""


async def test_a_guest_that_goes_before_they_are_sent_is_told_of_as_gone(until: Until) -> None:
    """Once, after its last words."""
    async with guests(1, Sockets) as (_, [guest]):
        await guest.say(b"last words")
        guest.connection.close()

        async def say() -> None:
            guest.link.send(b"too late")

        await asyncio.gather(say(), say())
        await until(lambda: guest.lost)
        assert (guest.heard, guest.lost, guest.error) == ([b"last words"], 1, None)
