"""The wire: what a tenant says to the host, over its own connection, past everything that would say it properly.

In the proof the other end is plain, and what is said must arrive there.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import importlib
import os
import select
import socket
import struct
import sys
from typing import Any, NoReturn

from cloister.ipc import codec, values, zmtp
from cloister.ipc.messages import Call, Failure, Goodbye, Hello, Note, Release, Result

from . import BYTES, Bait, attack

CONNECTION = 3
BROKE = "ProtocolViolation: the sandbox broke the protocol: "
CUT_OFF = "ProtocolViolation: the sandbox closed its connection"


def _write(data: bytes, descriptor: int = CONNECTION) -> None:
    left, poll = memoryview(data), select.poll()
    poll.register(descriptor, select.POLLOUT)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            poll.poll()


async def _say(*messages: Any) -> NoReturn:
    """Say it, and wait for what comes of it."""
    for message in messages:
        _write(zmtp.message(message if isinstance(message, bytes) else codec.encode(message)))
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


@attack(BROKE + "a frame of an unknown kind", endless=True)
async def say_nothing_at_length(bait: Bait) -> None:
    """A message without anything in it."""
    await _say(b"")


@attack(BROKE + "a Result that ends too early", endless=True)
async def say_what_is_no_message(bait: Bait) -> None:
    """Seven bytes where there have to be eight."""
    await _say(b"\x02garbage")


@attack(BROKE + "a frame of an unknown kind", endless=True)
async def say_a_message_of_no_kind(bait: Bait) -> None:
    """That the protocol does not have."""
    await _say(b"\x63" + bytes(16))


@attack(BROKE + "a Hello while the connection is ready", endless=True)
async def say_hello_again(bait: Bait) -> None:
    """As if it were somebody new."""
    await _say(Hello(1, b""))


@attack(BROKE + "an answer to call 1000000, which was never made", endless=True)
async def answer_what_was_never_asked(bait: Bait) -> None:
    """In the hope that somebody will."""
    await _say(Result(10**6, b""))


@attack(BROKE + "a second answer to call 1", endless=True)
async def answer_twice(bait: Bait) -> None:
    """The call that booted it."""
    await _say(Result(1, b"\xc0"))


@attack(BROKE + "a failure that is not a name, a message and a traceback", endless=True)
async def fail_in_no_words(bait: Bait) -> None:
    """With a list of one."""
    await _say(Failure(2, values.dumps(["x"])))


@attack("PayloadError: byte 0xc1 begins no value", endless=True)
async def answer_with_what_cannot_be_read(bait: Bait) -> None:
    """No value at all."""
    await _say(Result(2, b"\xc1"))


@attack("PayloadError: the value is nested more than 64 deep", endless=True)
async def answer_with_what_is_too_deep(bait: Bait) -> None:
    """A list in a list, a hundred thousand times: who reads it goes as deep."""
    await _say(Result(2, b"\x91" * 100_000))


@attack("PayloadError: the value has more than 65,536 elements", endless=True)
async def answer_with_what_grows(bait: Bait) -> None:
    """An eighth of a mebibyte that says that it is eight million lists."""
    await _say(Result(2, b"\xdd\x00\x80\x00\x00" + b"\x90" * 2**17))


@attack("PayloadError: map key b'a' stands there twice", endless=True)
async def answer_with_a_key_twice(bait: Bait) -> None:
    """Of which one is checked and the other used."""
    await _say(Result(2, b"\x82\xa1a\xc0\xa1a\xc0"))


@attack("PayloadError: a set or a capability is not a list inside", endless=True)
async def answer_with_a_set_of_all_characters(bait: Bait) -> None:
    """Four megabytes of one text, of which a set would have a million members."""
    text = b"".join("".join(map(chr, range(start, start + 0x800))).encode() for start in _PLANES)
    inside = b"\xdb" + struct.pack(">I", len(text)) + text
    await _say(Result(2, b"\xc9" + struct.pack(">I", len(inside)) + b"\x03" + inside))


_PLANES = [start for start in range(0, 0x11_0000, 0x800) if start != 0xD800]


@attack("PayloadError: a date of 8,388,608 bytes", endless=True)
async def answer_with_a_date_without_end(bait: Bait) -> None:
    """Which the words of its refusal would hold."""
    await _say(Result(2, b"\xc9" + struct.pack(">I", 2**23) + b"\x02" + b"2" * 2**23))


@attack(BROKE + "a note of an unknown form on 'log'", endless=True)
async def log_at_a_level_that_there_is_not(bait: Bait) -> None:
    """Whose name moves the cursor of whoever reads it."""
    await _say(Note("log", values.dumps(["\x1b[2J", "x", 1, 1])))


@attack("CapabilityError: capability 7 is not granted on this connection", endless=True)
async def answer_with_a_forged_capability(bait: Bait) -> None:
    """That the host itself is said to have granted."""
    await _say(Result(2, values.dumps([object()], export=lambda _: values.dumps([1, 7]))))


@attack(BROKE + "a release of capability 12345, which is not held that often", endless=True)
async def let_go_of_what_it_never_had(bait: Bait) -> None:
    """So that a count goes below nothing."""
    await _say(Release(12345, 1))


@attack(BROKE + "a note of an unknown form on 'log'", endless=True)
async def log_what_is_no_line(bait: Bait) -> None:
    """But a list of one."""
    await _say(Note("log", values.dumps(["x"])))


@attack(BROKE + "the value has more than 5 elements", endless=True)
async def log_a_list_without_end(bait: Bait) -> None:
    """Which would be read before it is looked at."""
    await _say(Note("log", values.dumps([0] * 60_000)))


@attack(BROKE + "the value is nested more than 1 deep", endless=True)
async def log_a_list_of_lists(bait: Bait) -> None:
    """Likewise."""
    await _say(Note("log", values.dumps([[[]]])))


@attack(BROKE + "a note of an unknown form on 'unknown'", endless=True)
async def note_what_nobody_knows(bait: Bait) -> None:
    """On a topic of its own."""
    await _say(Note("unknown", values.dumps(None)))


@attack(BROKE + "a note of an unknown form on 'background'", endless=True)
async def claim_work_without_number(bait: Bait) -> None:
    """So that it is never evicted."""
    await _say(Note("background", values.dumps("many")))


def _granted() -> int:
    """The number of a capability that it was given, whose calls are never answered. In the proof, any."""
    if "workers" not in sys.modules:
        return 1
    env = importlib.import_module("workers").env
    return int(env.WAIT._target)


@attack(BROKE + "more than 1024 calls in flight", endless=True)
async def call_without_end(bait: Bait) -> None:
    """Past the count that is kept on its own side."""
    nothing, target = values.dumps([[], {}]), _granted()
    await _say(*[Call(number, target, "", nothing) for number in range(10_000, 11_100)])


@attack(BROKE + "call 9999 was made twice", endless=True)
async def call_twice_by_one_number(bait: Bait) -> None:
    """So that one answer is taken for the other."""
    await _say(*[Call(9999, _granted(), "", values.dumps([[], {}]))] * 2)


def _peer() -> Any:
    """What speaks to the host, taken from what leads there."""
    return importlib.import_module("workers").env.ECHO._channel


@attack("CapabilityError: capability 777 is not granted on this connection", proof="itself")
async def call_what_was_not_granted(bait: Bait) -> Any:
    """A number that another tenant may well have."""
    peer = _peer()
    return await peer.call(777, "open", peer.encode([[], {}]))


@attack("CapabilityError: capability 1 is not granted on this connection", proof="itself")
async def call_what_it_has_let_go_of(bait: Bait) -> Any:
    """A number that was its own, and may be another's by now."""
    stub, peer = importlib.import_module("workers").env.ECHO, _peer()
    assert await stub("hello") == "hello"
    stub.dispose()
    await asyncio.sleep(0)  # it is the loop that tells the host
    with contextlib.suppress(Exception):  # what comes in the same breath may still be answered: so another one first
        await peer.call(999_999, "", peer.encode([[], {}]))
    return await peer.call(stub._target, "", peer.encode([["hello"], {}]))


@attack("done: {'CapabilityError': 999, 'was answered': 1}", proof="itself")
async def guess_what_was_granted_to_others(bait: Bait) -> dict[str, int]:
    """Each number up to a thousand, among which is one of its own: so the way is the right one."""
    peer, outcomes = _peer(), dict[str, int]()
    own = int(importlib.import_module("workers").env.ECHO._target)
    for number in {own, *range(1000, 1999)}:
        try:
            peer.decode(await peer.call(number, "", peer.encode([["hello"], {}])))
            outcome = "was answered"
        except Exception as error:  # noqa: BLE001 - it is counted
            outcome = str(getattr(error, "name", type(error).__name__))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return dict(sorted(outcomes.items()))


@attack("SandboxDied: the sandbox broke off: so long", endless=True)
async def say_goodbye(bait: Bait) -> None:
    """Which ends it, and nothing else."""
    await _say(Goodbye(b"so long"))


@attack(BROKE + "a frame with flags that do not exist", endless=True)
async def break_the_frames(bait: Bait) -> None:
    """With flags that there are not."""
    _write(b"\xff" * 99)
    await asyncio.Event().wait()


@attack(BROKE + "a frame of 1,099,511,627,776 bytes; at most 16,778,240 are taken", endless=True)
async def announce_a_frame_without_end(bait: Bait) -> None:
    """A tebibyte, for which somebody might make room."""
    _write(struct.pack(">BQ", 2, 2**40) + bytes(99))
    await asyncio.Event().wait()


@attack(BROKE + "a command of 8,388,608 bytes", endless=True)
async def announce_a_command_at_length(bait: Bait) -> None:
    """Of the protocol below, which has none that is longer than a line."""
    _write(struct.pack(">BQ", 6, 2**23) + b"\x04PING" + bytes(99))
    await asyncio.Event().wait()


@attack(BROKE + "a message of several parts, or one before READY", endless=True)
async def send_a_message_in_parts(bait: Bait) -> None:
    """Which the protocol below allows, and ours does not."""
    _write(b"\x01\x01a\x00\x01b")
    await asyncio.Event().wait()


@attack(BROKE + "a frame with flags that do not exist", endless=True)
async def write_to_every_descriptor(bait: Bait) -> None:
    """In case another than the known one leads somewhere."""
    for number in range(64):
        with contextlib.suppress(OSError):
            os.write(number, b"garbage" * 99)
    await asyncio.Event().wait()


@attack(BROKE + "a frame with flags that do not exist", endless=True)
async def dump_a_traceback_over_the_connection(bait: Bait) -> None:
    """By a part of the interpreter that writes past all of Python's own."""
    faulthandler.dump_traceback(CONNECTION)
    await asyncio.Event().wait()


@attack(CUT_OFF, endless=True)
async def close_the_connection(bait: Bait) -> None:
    """And live on unseen."""
    os.close(CONNECTION)
    await asyncio.Event().wait()


@attack(CUT_OFF, endless=True)
async def shut_the_connection(bait: Bait) -> None:
    """And live on unseen."""
    socket.socket(fileno=os.dup(CONNECTION)).shutdown(socket.SHUT_RDWR)
    await asyncio.Event().wait()


@attack("EPERM", proof="anybody")
def put_another_in_its_place(bait: Bait) -> int:
    """Another descriptor of the same number."""
    one, _ = os.pipe()
    return os.dup2(one, CONNECTION)


@attack(
    f"LimitExceeded: the sandbox sent more than {BYTES // 4:,} bytes in a second that nobody waits for, where a "
    "message counts 4,096 besides",
    endless=True,
)
async def flood_the_connection(bait: Bait) -> None:
    """With lines of a log, past the count that is kept on its own side."""
    line = zmtp.message(codec.encode(Note("log", values.dumps(["stdout", "x" * 8000, 1, 1])))) * 100
    while True:
        _write(line)
