"""The guest's end of ZeroMQ: bytes in any pieces become messages, and libzmq at the other end understands it."""

from __future__ import annotations

import random
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from cloister.ipc import RemoteProtocolError, zmtp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND_READY = b"\x04" + bytes([len(zmtp.READY)]) + zmtp.READY
FRAMES = [b"", b"a", b"b" * 255, b"c" * 256, b"d" * 70_000, b"end"]
STREAM = zmtp.GREETING + COMMAND_READY + b"".join(map(zmtp.message, FRAMES))


def test_a_stream_cut_in_two_anywhere_gives_the_same_messages() -> None:
    """At every byte boundary of the handshake and of the short frames, and at many of the long one."""
    boundaries = [*range(1500), *range(1500, len(STREAM), 997), *range(len(STREAM) - 300, len(STREAM) + 1)]
    for at in boundaries:
        reader = zmtp.Reader()
        first, _ = reader.feed(STREAM[:at])
        second, _ = reader.feed(STREAM[at:])
        assert first + second == FRAMES


def test_a_stream_that_comes_byte_by_byte_gives_the_same_messages() -> None:
    """The worst that a socket may do."""
    reader = zmtp.Reader()
    got = [message for byte in STREAM for message in reader.feed(bytes([byte]))[0]]
    assert got == FRAMES


@given(st.lists(st.binary(max_size=600), max_size=10), st.randoms(use_true_random=False))
def test_messages_survive_any_cutting(frames: list[bytes], chance: random.Random) -> None:
    """Any messages, in pieces of any size."""
    stream = zmtp.GREETING + COMMAND_READY + b"".join(map(zmtp.message, frames))
    reader, got = zmtp.Reader(), []
    while stream:
        size = chance.randint(1, 50)
        got += reader.feed(stream[:size])[0]
        stream = stream[size:]
    assert got == frames


def test_of_a_long_message_the_head_is_known_before_the_rest() -> None:
    """Its first byte and its size, once they have come and until it is complete; a short one comes soon enough."""
    reader = zmtp.Reader()
    reader.feed(zmtp.GREETING + COMMAND_READY)
    stream = zmtp.message(b"7" + bytes(70_000))
    reader.feed(stream[:9])
    assert reader.begun is None
    told = [reader.begun for at in (9, 500) if not reader.feed(stream[at : at + 491])[0]]
    assert told == [(ord("7"), 70_001)] * 2
    assert reader.feed(stream[991:])[0] == [stream[9:]]
    reader.feed(zmtp.message(b"short")[:4])
    assert reader.begun is None


def test_a_long_command_is_told_from_a_message() -> None:
    """Whose first byte says something else."""
    reader = zmtp.Reader()
    reader.feed(zmtp.GREETING + COMMAND_READY)
    reader.feed(b"\x06" + (70_000).to_bytes(8, "big") + b"\x04PING")
    assert reader.begun == (-1, 70_000)


def test_it_is_ready_when_the_peer_has_said_so_and_not_before() -> None:
    """Messages have to wait for that, in both directions."""
    reader = zmtp.Reader()
    ready = []
    for part in (zmtp.GREETING, COMMAND_READY[:-1], COMMAND_READY[-1:]):
        reader.feed(part)
        ready.append(reader.ready)
    assert ready == [False, False, True]
    early = zmtp.Reader()
    with pytest.raises(RemoteProtocolError, match="before READY"):
        early.feed(zmtp.GREETING + zmtp.message(b"too soon"))


@pytest.mark.parametrize("context", [b"", b"ctx", b"x" * 16])
def test_a_ping_is_answered_with_its_context(context: bytes) -> None:
    """The time to live is not part of it."""
    reader = zmtp.Reader()
    body = b"\x04PING" + struct.pack(">H", 300) + context
    messages, reply = reader.feed(zmtp.GREETING + COMMAND_READY + bytes([4, len(body)]) + body)
    assert messages == []
    assert reply == bytes([4, 5 + len(context)]) + b"\x04PONG" + context


def test_commands_that_are_not_known_are_passed_over() -> None:
    """SUBSCRIBE and whatever comes later, in the short and the long form."""
    reader = zmtp.Reader()
    odd = b"\x04\x05\x04NOPE" + b"\x04\x00" + struct.pack(">BQ", 6, 300) + b"\x04PING" + bytes(295)
    messages, _ = reader.feed(zmtp.GREETING + COMMAND_READY + odd + zmtp.message(b"after"))
    assert messages == [b"after"]


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n" + bytes(64),
        b"\x00" + zmtp.GREETING[1:],
        zmtp.GREETING[:10] + b"\x01" + zmtp.GREETING[11:],
        zmtp.GREETING[:12] + b"PLAIN" + zmtp.GREETING[17:],
        zmtp.GREETING + COMMAND_READY + b"\x01\x01a\x00\x01b",
        zmtp.GREETING + b"\x04\x0a\x05ERROR\x03no!",
    ],
)
def test_what_is_not_zmtp_is_a_violation(stream: bytes) -> None:
    """Another protocol, an old version, another mechanism, messages of several parts, a refusal."""
    with pytest.raises(RemoteProtocolError):
        zmtp.Reader().feed(stream)


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_a_violation_and_nothing_else(data: bytes, greeted: bool) -> None:
    """Any bytes, before or after the handshake."""
    reader = zmtp.Reader()
    try:
        reader.feed((zmtp.GREETING + COMMAND_READY if greeted else b"") + data)
    except RemoteProtocolError:
        return


@pytest.fixture
def libzmq(tmp_path: Path) -> Iterator[tuple[zmq.Socket[bytes], socket.socket]]:
    """A ROUTER of libzmq, and the accepted end of its connection to us."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.CONNECT_ROUTING_ID, b"guest")
    router.setsockopt(zmq.HEARTBEAT_IVL, 20)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        router.connect(f"ipc://{path}")
        listener.settimeout(100)
        connection, _ = listener.accept()
    connection.settimeout(100)
    with connection:
        yield router, connection
    router.close(0)
    context.term()


def read(connection: socket.socket, reader: zmtp.Reader, count: int) -> tuple[list[bytes], int]:
    """That many messages, and how many replies were sent on the way."""
    messages: list[bytes] = []
    replies = 0
    while len(messages) < count or not reader.ready:
        data = connection.recv(65536)
        assert data
        got, reply = reader.feed(data)
        messages += got
        if reply:
            connection.sendall(reply)
            replies += 1
    return messages, replies


def test_libzmq_and_this_end_understand_each_other(libzmq: tuple[zmq.Socket[bytes], socket.socket]) -> None:
    """Frames of every size, in both directions, once the other has said READY."""
    router, connection = libzmq
    reader = zmtp.Reader()
    connection.sendall(zmtp.OPENING)
    read(connection, reader, 0)
    for frame in FRAMES:
        connection.sendall(zmtp.message(frame))
        assert router.poll(10_000)
        assert router.recv_multipart() == [b"guest", frame]
        router.send_multipart([b"guest", frame])
        assert read(connection, reader, 1)[0] == [frame]


def test_libzmq_finds_this_end_alive(libzmq: tuple[zmq.Socket[bytes], socket.socket]) -> None:
    """Its heartbeats are answered: three of them, and the connection stands."""
    router, connection = libzmq
    reader = zmtp.Reader()
    connection.sendall(zmtp.OPENING)
    pongs = 0
    while pongs < 3:
        messages, reply = reader.feed(connection.recv(65536))
        assert messages == []
        if reply:
            connection.sendall(reply)
            pongs += 1
    connection.sendall(zmtp.message(b"still here"))
    assert router.poll(10_000)
    assert router.recv_multipart() == [b"guest", b"still here"]
