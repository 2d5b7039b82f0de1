"""Any bytes, in any order, cut anywhere: what is taken is what was sent, the rest is a documented error, and both end.

What must hold is said in `fuzz.py`, which runs under atheris too; what it or a person has found worth keeping is in
`corpus`. A file there is named after its target, what the target makes of it, and why it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cloister.ipc import (
    Connection,
    ConnectionClosed,
    IpcError,
    Peer,
    RemoteProtocolError,
    RpcTarget,
    codec,
    values,
    walk,
    zmtp,
)
from cloister.ipc.messages import VERSION, Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result

HERE = Path(__file__).parent
KEPT = sorted((HERE / "corpus").glob("*.bin"))
NAMES = ("frame", "value", "stream", "conversation")


def load() -> ModuleType:
    """The program beside this file, which is no module of any package."""
    spec = importlib.util.spec_from_file_location("ipc_fuzz", HERE / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fuzz = load()
PIECES = st.sampled_from([file.read_bytes() for file in KEPT if file.stat().st_size < 2000])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Something of the corpus with bytes changed, inserted or lost, or a piece of something else put in."""
    data = bytearray(draw(PIECES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | PIECES)
    return bytes(data[:4000])


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_what_was_worth_keeping_is_taken_or_refused_as_its_name_says(file: Path) -> None:
    """And means no harm to the other targets, which are made for something else."""
    target, outcome, _ = file.stem.split("-", 2)
    assert outcome in {"valid", "bad"}
    data = file.read_bytes()
    assert fuzz.TARGETS[target](data) is (outcome == "valid")
    for name in NAMES:
        fuzz.TARGETS[name](data)


def test_the_corpus_covers_what_there_is() -> None:
    """Each target, and each kind of message in a frame that is taken."""
    valid = {codec.decode(file.read_bytes()).__class__ for file in KEPT if file.stem.startswith("frame-valid-")}
    assert valid == {kind for kind, *_ in codec.KINDS}
    assert {file.stem.split("-")[0] for file in KEPT} == set(fuzz.TARGETS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400)
@given(data=damaged() | st.binary(max_size=200))
def test_any_bytes_do_what_is_said(name: str, data: bytes) -> None:
    """Each target over damaged pieces of the corpus, and over bytes of no origin at all."""
    fuzz.TARGETS[name](data)


SMALL = st.integers(0, 8)
SAID: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.sampled_from([VERSION, VERSION, 0, 2]), st.just(b"")),
    st.builds(Call, SMALL, SMALL, st.just("m"), st.just(b"")),
    st.builds(Result, SMALL, st.just(b"")),
    st.builds(Failure, SMALL, st.just(b"")),
    st.builds(Cancel, SMALL),
    st.builds(Release, SMALL, SMALL),
    st.builds(Note, st.just("t"), st.just(b"")),
)
"""Messages with numbers so small that they often mean something."""
ANSWERS: st.SearchStrategy[Message] = st.builds(
    Failure, SMALL, st.just(values.dumps(["ValueError", "no", ""])) | st.just(values.dumps({1, 2}))
) | st.builds(Call, SMALL, st.just(0), st.sampled_from(["m", "", "_private"]), st.just(values.dumps([[1], {}])))


class Life(RuleBasedStateMachine):
    """A connection's life in any order, beside a model of it that is checked at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.talk: Any = None

    @initialize(greeted=st.booleans())
    def begin(self, greeted: bool) -> None:
        """As the host's end, or as the guest's."""
        self.talk = fuzz.Conversation(greeted=greeted)
        if not greeted:
            self.talk.receive(Hello(VERSION, b""))

    @rule(message=SAID)
    def hear(self, message: Message) -> None:
        """The peer says what it likes."""
        self.talk.receive(message)

    @rule(data=damaged())
    def hear_noise(self, data: bytes) -> None:
        """Or what is no message at all."""
        self.talk.receive_bytes(data[:200])

    @rule(deadline=st.none() | st.floats(0, 100))
    def call(self, deadline: float | None) -> None:
        """This side calls, with a deadline or without."""
        self.talk.call(deadline)

    @rule(number=SMALL)
    def cancel(self, number: int) -> None:
        """This side gives up on a call, or on what never was one."""
        self.talk.cancel(number)

    @rule(number=SMALL)
    def withdraw(self, number: int) -> None:
        """A call could not be sent."""
        self.talk.withdraw(number)

    @rule(number=SMALL, failed=st.booleans())
    def answer(self, number: int, failed: bool) -> None:
        """This side answers, or tries to."""
        self.talk.answer(number, failed=failed)

    @rule(now=st.floats(0, 100))
    def pass_time(self, now: float) -> None:
        """Deadlines pass."""
        self.talk.expire(now)

    @rule(sure=SMALL, said=st.booleans())
    def end(self, sure: int, said: bool) -> None:
        """Seldom, since nothing much comes after it."""
        if sure == 0:
            self.talk.receive(Goodbye(b"")) if said else self.talk.close()


def test_a_connection_lives_as_the_model_says() -> None:
    """Whatever is said and done in whatever order: what is refused changes nothing, and what is kept is bounded."""
    run_state_machine_as_test(Life, settings=settings(max_examples=80, stateful_step_count=60))


class Echo(RpcTarget):
    """Something that was granted, so that a number of a hostile call may even be right."""

    def m(self, *args: object) -> object:
        """Whatever was sent."""
        return args


async def converse(frames: list[bytes]) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    ends: list[Exception] = []
    sent: list[bytes] = []
    peer = Peer(Connection(max_calls=4), sent.append, on_closed=ends.append)
    peer.encode(Echo())
    peer.deliver(codec.encode(Hello(VERSION, b"")))
    waiting = [asyncio.ensure_future(peer.call(0, "m", b"")) for _ in range(3)]
    await asyncio.sleep(0)
    for frame in frames:
        peer.deliver(frame)
        await asyncio.sleep(0)
    assert all(isinstance(end, RemoteProtocolError | ConnectionClosed) for end in ends)
    peer.close(ConnectionClosed("the test is over"))
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, bytes | IpcError) for answer in answers)
    assert len(ends) == 1
    assert len(peer.exports) == 0
    assert all(codec.encode(codec.decode(frame)) == frame for frame in sent)
    assert not unheard


@settings(max_examples=300)
@given(st.lists(st.builds(codec.encode, SAID | ANSWERS) | damaged(), max_size=20))
def test_a_peer_takes_any_frames_and_ends_once(frames: list[bytes]) -> None:
    """Nothing is raised where they come in, and nothing behind it; whoever waits is told; nothing stays granted."""
    asyncio.run(converse(frames))


def peak(work: Callable[[], object]) -> int:
    """How many bytes were allocated at once while something went on, whatever came of it."""
    tracemalloc.start()
    try:
        work()
    except RemoteProtocolError:
        pass
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most


CHARACTERS = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11_0000)]))
HOSTILE = {
    "empty lists": b"\xdd" + (2**24).to_bytes(4, "big") + b"\x90" * 2**22,
    "empty maps in a map": b"\xdf" + (2**20).to_bytes(4, "big") + b"".join(b"\xa3%03x\x80" % n for n in range(4000)),
    "as many lists as may be": b"\xdd" + (65_535).to_bytes(4, "big") + b"\x90" * 65_535,
    "lists in lists": b"\x91" * 2**22,
    "counts of counts": b"\xdd\xff\xff\xff\xff" * 2**19,
    "sets": b"\xdd\x00\x00\xff\xff" + msgpack.packb(msgpack.ExtType(3, b"\x91\x01")) * 65_535,
    "one set": msgpack.packb(msgpack.ExtType(3, b"\xdd" + (2**22).to_bytes(4, "big") + b"\x01" * 2**22)),
    "one set of all characters": msgpack.packb(msgpack.ExtType(3, msgpack.packb(CHARACTERS))),
    "one number": b"\xc9\x00\x40\x00\x00\x02" + b"9" * 2**22,
    "one key": b"\x81\xdb\x00\x40\x00\x00" + b"k" * 2**22 + b"\xc1",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_value_costs_no_more_than_its_bytes_and_its_elements(data: bytes) -> None:
    """To walk: about its own size again. To read: a hundred bytes or two for each element that may be."""
    assert peak(lambda: values.scan(data)) < 2 * len(data) + walk.MAX_ELEMENTS * 200
    assert peak(lambda: values.loads(data)) < 2 * len(data) + walk.MAX_ELEMENTS * 300


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_costs_next_to_nothing(data: bytes) -> None:
    """It is short, whatever it claims; what follows it is copied once."""
    for kind in range(len(codec.KINDS)):
        frame = bytes([kind]) + data
        assert peak(functools.partial(codec.decode, frame)) < len(frame) + 50_000


def test_what_a_stream_has_not_finished_is_kept_once() -> None:
    """However small the pieces: the longest frame but its last byte, and not a copy of it for each of them."""
    reader = zmtp.Reader()
    reader.feed(zmtp.GREETING + bytes([4, len(zmtp.READY)]) + zmtp.READY)
    body = bytes(2**20)
    whole = zmtp.message(body)

    def feed() -> None:
        for start in range(0, len(whole) - 1, 1000):
            assert reader.feed(whole[start : min(start + 1000, len(whole) - 1)]) == ([], b"")

    assert peak(feed) < 3 * len(body)
    assert reader.feed(whole[-1:]) == ([body], b"")


def test_a_peer_that_never_stops_fills_nothing() -> None:
    """A hundred thousand messages that are refused, or taken and need no answer, leave nothing behind."""
    connection = Connection(greeted=True, max_calls=8)
    said: list[bytes] = [
        codec.encode(message)
        for message in (Call(1, 0, "m", b""), Result(5, b""), Failure(1, b""), Cancel(9), Release(7, 7), Note("t", b""))
    ]

    def flood() -> None:
        for turn in range(20_000):
            connection.call(0, "m", b"", deadline=1e9)
            for frame in (*said, codec.encode(Call(turn, 0, "m", b""))):
                with contextlib.suppress(RemoteProtocolError):
                    connection.receive(frame)
            number = turn + 1
            connection.cancel(number)
            connection.receive(codec.encode(Result(number, b"")))
            connection.next_deadline()

    assert peak(flood) < 200_000
