"""Frames: what one side encodes the other decodes, and every other frame is a violation of the protocol."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.ipc import CodecError, RemoteProtocolError, codec
from cloister.ipc.messages import Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result

NUMBERS = st.integers(0, codec.MAX_NUMBER - 1)
NAMES = st.text(max_size=codec.MAX_NAME)
PAYLOADS = st.binary(max_size=200)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, NUMBERS, PAYLOADS),
    st.builds(Call, NUMBERS, NUMBERS, NAMES, PAYLOADS),
    st.builds(Result, NUMBERS, PAYLOADS),
    st.builds(Failure, NUMBERS, PAYLOADS),
    st.builds(Cancel, NUMBERS),
    st.builds(Release, NUMBERS, NUMBERS),
    st.builds(Note, NAMES, PAYLOADS),
    st.builds(Goodbye, PAYLOADS),
)


def frame(header: Any, payload: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return len(packed).to_bytes(2, "big") + packed + payload


@given(MESSAGES)
def test_each_message_comes_back_the_same(message: Message) -> None:
    """Whatever its fields are, within what a header may hold."""
    back = codec.decode(codec.encode(message))
    assert back == message
    assert type(back) is type(message)


def test_a_name_may_be_as_long_in_any_script() -> None:
    """The limit is on characters; the longest of them fit."""
    call = Call(codec.MAX_NUMBER - 1, codec.MAX_NUMBER - 1, "\U0001d54f" * codec.MAX_NAME, b"")
    assert codec.decode(codec.encode(call)) == call


@pytest.mark.parametrize(
    "message",
    [
        Call(1, 0, "x" * 129, b""),
        Call(1, 0, "\ud800", b""),
        Call(1, -1, "x", b""),
        Call(codec.MAX_NUMBER, 0, "x", b""),
        Note("x" * 129, b""),
        Release(2**64, 1),
        Result(1, bytes(codec.MAX_FRAME - 1023)),
        Goodbye(bytes(codec.MAX_FRAME)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_other_side_would_not_take_is_not_sent(message: Message) -> None:
    """It is this side that asked for it, so this side is told; the other would end the connection over it."""
    with pytest.raises(CodecError, match=r"cannot be sent|can be sent"):
        codec.encode(message)


def test_the_largest_payload_is_taken() -> None:
    """What may just be sent may just be received."""
    largest = Call(codec.MAX_NUMBER - 1, codec.MAX_NUMBER - 1, "\U0001d54f" * 128, bytes(codec.MAX_FRAME - 1024))
    assert codec.decode(codec.encode(largest)) == largest


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "impossible length"),
        (b"\x00", "impossible length"),
        (b"\x00\x00", "impossible length"),
        (b"\x00\x05\x91", "impossible length"),
        (frame(b"\x91" + b"\xc0" * 2000), "impossible length"),
        (bytes(codec.MAX_FRAME + 1), "at most"),
        (frame(b"\xc1"), "not msgpack"),
        (frame(b"\x92\x01"), "not msgpack"),
        (frame(b"\x91\x01\x01"), "not msgpack"),
        (frame([1, [[[[[[1] * 5]]]]]]), "not msgpack"),
        (frame([1, {"a": 1}]), "not msgpack"),
        (frame([1, b"1"]), "not msgpack"),
        (frame([1, msgpack.Timestamp(1, 1)]), "not msgpack"),
        (frame([1, 1, 1, "x", 1]), "not msgpack"),
        (frame(1), "unknown kind"),
        (frame(None), "unknown kind"),
        (frame([]), "unknown kind"),
        (frame([8, 1]), "unknown kind"),
        (frame([-1, 1]), "unknown kind"),
        (frame([True, 1, 1, "x"]), "unknown kind"),
        (frame([1.0, 1, 1, "x"]), "unknown kind"),
        (frame(["Call", 1, 1, "x"]), "unknown kind"),
        (frame([0]), "a Hello whose fields"),
        (frame([0, "1"]), "a Hello whose fields"),
        (frame([1, 1, 1]), "a Call whose fields"),
        (frame([1, 1, "x", 1]), "a Call whose fields"),
        (frame([1, 1, True, "x"]), "a Call whose fields"),
        (frame([1, -1, 1, "x"]), "a Call whose fields"),
        (frame([1, 2**53, 1, "x"]), "a Call whose fields"),
        (frame([1, 1, 1, "x" * 129]), "a Call whose fields"),
        (frame([1, 1, 1, None]), "a Call whose fields"),
        (frame([2, 1.5]), "a Result whose fields"),
        (frame([2, 1, 1]), "a Result whose fields"),
        (frame([3, None]), "a Failure whose fields"),
        (frame([4, 1], b"x"), "a Cancel with a payload"),
        (frame([5, 1]), "a Release whose fields"),
        (frame([5, 1, 1], b"x"), "a Release with a payload"),
        (frame([6, 1]), "a Note whose fields"),
        (frame([7, 1]), "a Goodbye whose fields"),
        (frame(b"\x92\x06\xa1\xff"), "not msgpack"),
    ],
)  # fmt: skip
def test_each_wrong_form_is_a_violation(data: bytes, words: str) -> None:
    """Lengths, kinds, numbers and types of fields, and payloads where none belongs."""
    with pytest.raises(RemoteProtocolError, match=words):
        codec.decode(data)


@given(st.binary(max_size=80) | st.builds(frame, st.binary(min_size=1, max_size=40), PAYLOADS))
def test_random_frames_are_messages_or_violations(data: bytes) -> None:
    """Nothing but a `RemoteProtocolError` ever comes out of `decode`, and what it takes can be sent again."""
    try:
        message = codec.decode(data)
    except RemoteProtocolError:
        return
    assert codec.decode(codec.encode(message)) == message


@given(MESSAGES, st.randoms(use_true_random=False))
def test_damaged_frames_are_messages_or_violations(message: Message, chance: random.Random) -> None:
    """A frame with changed, inserted or lost bytes."""
    data = bytearray(codec.encode(message))
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(min(len(data), 40) or 1)
        data[at : at + chance.randint(0, 2)] = bytes(chance.randrange(256) for _ in range(chance.randint(0, 2)))
    try:
        assert isinstance(codec.decode(bytes(data)), tuple)
    except RemoteProtocolError:
        return


def test_a_header_is_written_in_one_way_only() -> None:
    """What says its kind at length could be taken for another kind by whoever only looks."""
    frame = codec.encode(Note("log", b"x"))
    assert codec.kind_of(frame) is Note
    length = int.from_bytes(frame[:2], "big")
    longer = (length + 1).to_bytes(2, "big") + frame[2:3] + b"\xcc" + frame[3:]
    with pytest.raises(RemoteProtocolError, match="longer than it need be"):
        codec.decode(longer)
