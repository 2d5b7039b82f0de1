"""The guest's end of the wire: what goes together, and what waits for nothing. The other end is a socket that keeps
apart what was sent apart."""

from __future__ import annotations

import _socket
import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Call, Message, Result
from cloister.sandbox.guest.loop import Loop
from cloister.sandbox.guest.wire import Wire


class Wired:
    """A wire, the host's end of it, and what is done for each frame that arrives."""

    def __init__(self) -> None:
        self.host, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host.setblocking(False)
        self.on_frame: Callable[[bytes], object] = lambda frame: None
        self.wire = Wire(_socket.socket(fileno=theirs.detach()), asyncio.new_event_loop())
        self.wire.deliver, self.wire.stir = self.deliver, self.stir
        self.arrive(zmtp.OPENING_OF_A_ROUTER)

    def deliver(self, frame: bytes) -> None:
        self.on_frame(frame)

    def stir(self) -> None: ...

    def arrive(self, data: bytes) -> None:
        self.host.send(data)
        assert self.wire.readable()

    def say(self, *messages: Message) -> None:
        self.arrive(b"".join(zmtp.message(codec.encode(message)) for message in messages))

    def sent(self) -> list[list[Message]]:
        """What has come, each time that something was sent."""
        reader, found = zmtp.Reader(), list[list[Message]]()
        reader.feed(zmtp.OPENING)
        while True:
            try:
                frames, _ = reader.feed(self.host.recv(65536))
            except BlockingIOError:
                return found
            found.append([codec.decode(frame) for frame in frames])


@pytest.fixture
def wired() -> Iterator[Wired]:
    made = Wired()
    yield made
    made.host.close()
    made.wire._socket.close()
    made.wire._loop.close()


def answer(number: int) -> Result:
    return Result(number, values.dumps(number))


def ask(number: int, size: int = 1) -> Call:
    return Call(number, 1, "settle", b"\xc0" * size)


def asking(wired: Wired, make: Callable[[int], Message]) -> Callable[[bytes], None]:
    """For each answer, the next question."""

    def on_frame(frame: bytes) -> None:
        message: Any = codec.decode(frame)
        wired.wire.send(codec.encode(make(message.call)))

    return on_frame


def test_calls_that_come_of_frames_that_arrived_together_go_together(wired: Wired) -> None:
    """In one system call, in order; the next time there is nothing left of it."""
    wired.on_frame = asking(wired, ask)
    wired.say(answer(1), answer(2), answer(3))
    assert wired.sent() == [[ask(1), ask(2), ask(3)]]
    wired.say(answer(4))
    assert wired.sent() == [[ask(4)]]


def test_an_answer_waits_for_nothing(wired: Wired) -> None:
    """Whoever asked for it may be somebody else than who computes next. What waits goes before it, in order."""
    wired.on_frame = asking(wired, lambda number: answer(number) if number == 2 else ask(number))
    wired.say(answer(1), answer(2), answer(3))
    assert wired.sent() == [[ask(1), answer(2)], [ask(3)]]


def test_a_long_call_waits_for_nothing(wired: Wired) -> None:
    """It is worth a system call of its own."""
    wired.on_frame = asking(wired, lambda number: ask(number, 5000 if number == 1 else 1))
    wired.say(answer(1), answer(2))
    assert wired.sent() == [[ask(1, 5000)], [ask(2)]]


def test_who_waits_for_the_host_in_the_midst_of_it_has_asked_before(wired: Wired) -> None:
    """The loop is held up, and what was said so far is what is waited for."""

    def on_frame(frame: bytes) -> None:
        asking(wired, ask)(frame)
        if codec.decode(frame) == answer(2):
            seen.extend(wired.sent())
            wired.wire.pump(0)
            seen.extend(wired.sent())

    seen: list[list[Message]] = []
    wired.on_frame = on_frame
    wired.say(answer(1), answer(2), answer(3))
    assert seen == [[ask(1), ask(2)]]
    assert wired.sent() == [[ask(3)]]


def test_what_goes_together_is_sent_whatever_is_raised(wired: Wired) -> None:
    """A program may end the interpreter's loop; what it has asked before is asked."""

    def on_frame(frame: bytes) -> None:
        asking(wired, ask)(frame)
        if codec.decode(frame) == answer(2):
            raise KeyboardInterrupt

    wired.on_frame = on_frame
    with pytest.raises(KeyboardInterrupt):
        wired.say(answer(1), answer(2), answer(3))
    assert wired.sent() == [[ask(1), ask(2)]]


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


def test_timers_that_were_cancelled_are_forgotten_while_one_frame_follows_the_other() -> None:
    """Whoever bounds each call by an hour, and is called all the time, would else keep all of them for an hour."""
    loop = Loop()
    loop.reopen()
    host, its = socket.socketpair()
    kept: list[int] = []

    class Busy:
        def deliver(self, frame: bytes) -> None:
            loop.call_later(3600, loop.stop).cancel()
            kept.append(len(loop._scheduled))
            if len(kept) < 1000:
                host.send(zmtp.message(frame))
            else:
                loop.stop()

        def stir(self) -> None: ...

    with host, its:
        wire = Wire(_socket.socket(fileno=its.detach()), loop)
        busy = Busy()
        wire.deliver, wire.stir = busy.deliver, busy.stir
        loop.add_reader(wire.descriptor, wire.serve)
        host.send(zmtp.OPENING_OF_A_ROUTER + zmtp.message(b"frame"))
        loop.run_forever()
        loop.close()
        wire._socket.close()
    assert len(kept) == 1000
    assert max(kept) < 200


def test_what_the_host_had_no_room_for_goes_as_soon_as_it_has_though_the_loop_is_held_up(wired: Wired) -> None:
    """With whatever is said next, in order: who prints for long, and never lets go, would have all of it wait."""
    numbers = iter(range(1 << 20))
    count = 0
    while not wired.wire.backlog():
        wired.wire.send(codec.encode(ask(next(numbers), 4096)))
        count += 1
    for _ in range(3):
        wired.wire.send(codec.encode(ask(next(numbers), 4096)))
    found = wired.sent()
    assert len(found) == count - 1
    wired.wire.send(codec.encode(ask(next(numbers))))
    assert not wired.wire.backlog()
    found += wired.sent()
    assert [message.call for messages in found for message in messages] == list(range(count + 4))  # type: ignore[union-attr]
    wired.wire._flush()  # as the loop will, which finds nothing left
    assert wired.sent() == []
