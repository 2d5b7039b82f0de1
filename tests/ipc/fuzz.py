"""What any bytes at all may do to the wire: a handful of targets, each of which takes bytes and checks what must hold.

The tests run them with examples of hypothesis and over the corpus beside this file. Run as a program, this runs one
under atheris, where that is installed, until it is stopped or finds something:

    python tests/ipc/fuzz.py value -max_total_time=60

What it has seen it keeps in build/fuzz, and there it leaves what broke a target. That belongs into the corpus, as small
as it can be made, once the fault is mended.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack

from cloister.ipc import (
    Connection,
    ConnectionClosed,
    LocalProtocolError,
    PayloadError,
    RemoteProtocolError,
    TooManyCalls,
    codec,
    values,
    walk,
    zmtp,
)
from cloister.ipc.connection import RECEIVES, State
from cloister.ipc.messages import VERSION, Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result

CORPUS: Final = Path(__file__).parent / "corpus"
FINDINGS: Final = Path(__file__).parent.parent.parent / "build" / "fuzz"
_HANDSHAKE: Final = zmtp.GREETING + bytes([4, len(zmtp.READY)]) + zmtp.READY


def frame(data: bytes) -> bool:
    """`codec.decode` takes a frame that could be sent just so, or refuses it with a `RemoteProtocolError`."""
    try:
        message = codec.decode(data)
    except RemoteProtocolError as error:
        assert type(error) is RemoteProtocolError, "a header is no payload"  # noqa: PT017 - it need not be raised
        return False
    assert codec.decode(codec.encode(message)) == message
    return True


def value(data: bytes) -> bool:
    """`scan` takes no more than msgpack would, `loads` builds no more than `scan` counted, and what it built can be
    sent again. `split` takes apart what `scan` took, into parts that `scan` takes. Each refuses with `PayloadError`.
    """
    try:
        counted = values.scan(data)
    except PayloadError:
        _refused(values.loads, data)
        with contextlib.suppress(PayloadError):
            values.split(data)
        return False
    assert 1 <= counted <= walk.MAX_ELEMENTS
    reader = msgpack.Unpacker(io.BytesIO(data))
    reader.skip()
    assert reader.tell() == len(data), "the value ends elsewhere than its bytes"
    try:
        values.loads(data, adopt=values.loads)
        built = values.loads(data)
    except PayloadError:
        return False
    elements, depth = _extent(built)
    assert elements <= counted, f"{elements} elements were built of {counted}"
    assert depth <= walk.MAX_DEPTH
    again = values.dumps(built)
    assert values.dumps(values.loads(again)) == again or _unordered(built)
    if isinstance(built, dict | list):
        parts = values.split(data)
        assert len(parts) == len(built)
        for part in parts.values() if isinstance(parts, dict) else parts:
            values.scan(part)
    else:
        _refused(values.split, data)
    return True


def stream(data: bytes) -> bool:
    """`zmtp.Reader` makes the same of a stream in one piece and in many; the first byte says how it is cut.

    The second says whether a handshake comes first, so that not every stream has to begin with one.
    """
    cut, greeted, body = (data[:1] or b"\0")[0] + 1, data[1:2] != b"\0", data[2:]
    told = (_HANDSHAKE if greeted else b"") + body
    whole = _read(told, len(told) or 1)
    assert _read(told, cut) == whole
    return whole is not None


def conversation(data: bytes) -> bool:
    """`Connection` does what the table and the model say, whatever is said to it and done with it in whatever order."""
    told = iter(data)
    talk = Conversation(greeted=next(told, 0) % 2 == 1)
    for step in told:
        first, second = next(told, 0) % 16, next(told, 0)
        match step % 20:
            case 0:
                talk.receive(Hello(second % 3, b""))
            case 1 | 2 | 3:
                talk.receive(Call(first, second, "m", b""))
            case 4 | 5:
                talk.receive(Result(first, b"r"))
            case 6:
                talk.receive(Failure(first, b"f"))
            case 7:
                talk.receive(Cancel(first))
            case 8:
                talk.receive(Release(first, second))
            case 9:
                talk.receive(Note("t", b""))
            case 10 if second > 250:
                talk.receive(Goodbye(b""))
            case 11:
                talk.receive_bytes(bytes([first, second, *(next(told, 0) for _ in range(first))]))
            case 12 | 13 | 14:
                talk.call(None if second % 4 == 0 else float(second))
            case 15:
                talk.cancel(first)
            case 16:
                talk.answer(first, failed=second % 2 == 1)
            case 17:
                talk.withdraw(first)
            case 18:
                talk.expire(float(second))
            case 19 if second > 253:
                talk.close()
    return talk.violations == 0


class Conversation:
    """A connection beside the plainest model of it there can be. Whatever is done is done to both, and they agree."""

    MAX_CALLS = 4

    def __init__(self, *, greeted: bool) -> None:
        self.connection = Connection(greeted=greeted, max_calls=self.MAX_CALLS)
        self.state = State.READY if greeted else State.NEW
        self.made = 0
        self.outgoing: dict[int, float | None] = {}
        self.cancelled: set[int] = set()
        self.incoming: set[int] = set()
        self.expired: set[int] = set()
        self.violations = 0

    def receive(self, message: Message) -> None:
        """The peer says something that is well-formed."""
        self.receive_bytes(codec.encode(message))

    def receive_bytes(self, data: bytes) -> None:
        """The peer says something. A violation is a `RemoteProtocolError`, and changes nothing."""
        try:
            message = codec.decode(data)
        except RemoteProtocolError:
            allowed, expected = False, None
        else:
            allowed, expected = self._allowed(message), message
        try:
            got = self.connection.receive(data)
        except RemoteProtocolError as error:
            assert not allowed, f"{expected} was refused: {error}"  # noqa: PT017 - it need not be raised
            self.violations += 1
        else:
            assert allowed, f"{expected} was taken"
            assert expected is not None
            self._took(expected, got)
        self.check()

    def call(self, deadline: float | None) -> None:
        """This side calls."""
        try:
            number, data = self.connection.call(0, "m", b"", deadline=deadline)
        except ConnectionClosed:
            assert self.state is State.CLOSED
        except TooManyCalls:
            assert len(self.outgoing) == self.MAX_CALLS
        else:
            self.made += 1
            assert number == self.made
            assert codec.decode(data) == Call(number, 0, "m", b"")
            self.outgoing[number] = deadline
        self.check()

    def cancel(self, number: int) -> None:
        """This side gives up on a call."""
        known = number in self.outgoing
        data = self.connection.cancel(number)
        assert (data is not None) == (known and self.state is not State.CLOSED)
        self.outgoing.pop(number, None)
        if data is not None:
            self.cancelled.add(number)
        self.check()

    def withdraw(self, number: int) -> None:
        """This side could not send a call."""
        self.connection.withdraw(number)
        self.outgoing.pop(number, None)
        self.cancelled.discard(number)
        self.check()

    def answer(self, number: int, *, failed: bool = False) -> None:
        """This side answers a call."""
        answer = Failure(number, b"") if failed else Result(number, b"")
        try:
            data = self.connection.answer(answer)
        except LocalProtocolError:
            assert number not in self.incoming
        else:
            assert number in self.incoming
            assert (data is not None) == (self.state is State.READY)
            self.incoming.discard(number)
        self.check()

    def expire(self, now: float) -> None:
        """Time passes: each deadline is told of once."""
        due = {
            number
            for number, deadline in self.outgoing.items()
            if deadline is not None and deadline <= now and number not in self.expired
        }
        assert set(self.connection.expire(now)) == due
        self.expired |= due
        self.check()

    def close(self) -> None:
        """This side ends it."""
        assert self.connection.close() == list(self.outgoing)
        self.state = State.CLOSED
        self.outgoing.clear()
        self.check()

    def check(self) -> None:
        """Both agree, and nothing that the peer decides on grows beyond its bound."""
        connection = self.connection
        assert connection.state is self.state
        assert connection.calls_in_flight == len(self.outgoing) <= self.MAX_CALLS
        assert connection.cancelled.keys() == self.cancelled
        assert connection._incoming.keys() == self.incoming
        assert len(self.incoming) <= self.MAX_CALLS
        waiting = [
            deadline
            for number, deadline in self.outgoing.items()
            if deadline is not None and number not in self.expired
        ]
        assert connection.next_deadline() == min(waiting, default=None)

    def _allowed(self, message: Message) -> bool:
        if type(message) not in RECEIVES[self.state]:
            return False
        match message:
            case Hello(version):
                return version == VERSION
            case Call(call):
                return call not in self.incoming and len(self.incoming) < self.MAX_CALLS
            case Result(call) | Failure(call):
                return call in self.outgoing or call in self.cancelled
        return True

    def _took(self, message: Message, got: Message) -> None:
        self.state = RECEIVES[self.state][type(message)]
        match message:
            case Call(call):
                self.incoming.add(call)
            case Result(call) | Failure(call) if call in self.cancelled:
                self.cancelled.discard(call)
            case Result(call) | Failure(call):
                del self.outgoing[call]
        assert got == message


TARGETS: Final[dict[str, Callable[[bytes], bool]]] = {
    "frame": frame,
    "value": value,
    "stream": stream,
    "conversation": conversation,
}
"""Each says whether the bytes were taken as well-formed, and raises when something does not hold."""


def _refused(read: Callable[[bytes], object], data: bytes) -> None:
    try:
        read(data)
    except PayloadError:
        return
    raise AssertionError(f"{read.__name__} took what scan does not")


def _extent(built: Any) -> tuple[int, int]:
    """Number of elements of a value, counted as `scan` does, and how deep it is nested."""
    match built:
        case dict():
            inner = [_extent(part) for part in built.values()]
            keys = len(built)
        case list() | set():
            inner, keys = [_extent(part) for part in built], 0
        case _:
            return 1, 0
    return 1 + keys + sum(count for count, _ in inner), 1 + max((depth for _, depth in inner), default=0)


def _unordered(built: Any) -> bool:
    """Whether there is a set in it, whose parts may be sent in another order the next time."""
    match built:
        case set():
            return True
        case dict():
            return any(map(_unordered, built.values()))
        case list():
            return any(map(_unordered, built))
    return False


def _read(told: bytes, cut: int) -> tuple[list[bytes], bytes, bool] | None:
    """Messages and replies of a stream in pieces of a size, and whether the peer was ready; None for a violation."""
    reader = zmtp.Reader()
    messages: list[bytes] = []
    replies = b""
    for start in range(0, len(told), cut):
        try:
            got, reply = reader.feed(told[start : start + cut])
        except RemoteProtocolError:
            return None
        messages += got
        replies += reply
    assert sum(map(len, messages)) + len(reader._buffer) <= len(told), "more is kept than was sent"
    return messages, replies, reader.ready


def main(arguments: list[str]) -> int:
    """Run a target under atheris: its name, then options of libFuzzer."""
    if not arguments or arguments[0] not in TARGETS:
        print(f"usage: fuzz.py {'|'.join(TARGETS)} [-max_total_time=SECONDS] …", file=sys.stderr)
        return 2
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        print("atheris is not installed (pip install atheris); the tests fuzz with hypothesis alone", file=sys.stderr)
        return 3
    name, *options = arguments
    target = TARGETS[name]
    for place in (
        codec,
        values,
        walk,
        zmtp,
        importlib.import_module("cloister.ipc.connection"),
        Connection,
        zmtp.Reader,
    ):
        for thing in vars(place).values():
            if inspect.isfunction(thing) and thing.__module__.startswith("cloister.ipc"):
                atheris.instrument_func(thing)
    seen = FINDINGS / name
    seen.mkdir(parents=True, exist_ok=True)

    def once(data: bytes) -> None:
        target(data)

    folders = [f"-artifact_prefix={FINDINGS}/{name}-", *options, str(seen), str(CORPUS)]
    atheris.Setup([sys.argv[0], *folders], once)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
