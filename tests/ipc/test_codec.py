"""Frames: what one side encodes the other decodes, and every other frame is a violation of the protocol."""

from __future__ import annotations

import random
import struct

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


def head(kind: int, *numbers: int, name: bytes | None = None, length: int | None = None) -> bytes:
    """The beginning of a frame as it is written, with a name whose length is said to be another."""
    said = struct.pack(f">B{len(numbers)}Q", kind, *numbers)
    if name is not None:
        said += struct.pack(">H", len(name) if length is None else length) + name
    return said


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
        Result(1, bytes(codec.MAX_PAYLOAD + 1)),
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
    largest = Call(codec.MAX_NUMBER - 1, codec.MAX_NUMBER - 1, "\U0001d54f" * 128, bytes(codec.MAX_PAYLOAD))
    assert codec.decode(codec.encode(largest)) == largest


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "unknown kind"),
        (b"\x08" + bytes(40), "unknown kind"),
        (b"\xff", "unknown kind"),
        (bytes(codec.MAX_FRAME + 1), "at most"),
        (head(0), "a Hello that ends too early"),
        (head(0, 1)[:-1], "a Hello that ends too early"),
        (head(1, 1), "a Call that ends too early"),
        (head(1, 1, 1), "a Call that ends too early"),
        (head(1, 1, 1) + b"\0", "a Call that ends too early"),
        (head(1, 1, 1, name=b"x", length=2), "a Call that ends too early"),
        (head(1, 1, 1, name=b"x", length=0xFFFF), "a Call that ends too early"),
        (head(1, 1, 1, name=b"x" * 129), "a Call whose name has more than 128"),
        (head(1, 1, 1, name="\U0001d54f".encode() * 129), "a Call whose name has more than 128"),
        (head(1, 1, 1, name=b"\xff"), "a Call whose name is not text"),
        (head(1, 1, 1, name=b"\xed\xa0\x80"), "a Call whose name is not text"),
        (head(2), "a Result that ends too early"),
        (head(2, 1) + bytes(codec.MAX_PAYLOAD + 1), "a Result with more than"),
        (head(3)[:5], "a Failure that ends too early"),
        (head(4), "a Cancel that ends too early"),
        (head(4, 1) + b"x", "a Cancel with a payload"),
        (head(5, 1), "a Release that ends too early"),
        (head(5, 1, 1) + b"x", "a Release with a payload"),
        (head(6), "a Note that ends too early"),
        (head(6, name=b"\xc3("), "a Note whose name is not text"),
        (head(7) + bytes(codec.MAX_PAYLOAD + 1), "a Goodbye with more than"),
    ],
)  # fmt: skip
def test_each_wrong_form_is_a_violation(data: bytes, words: str) -> None:
    """Lengths, kinds, names, and payloads where none belongs."""
    with pytest.raises(RemoteProtocolError, match=words):
        codec.decode(data)


@given(st.binary(max_size=80) | st.builds(bytes.__add__, st.integers(0, 8).map(head), st.binary(max_size=80)))
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


@given(MESSAGES)
def test_a_frame_says_what_it_is_to_whoever_only_looks(message: Message) -> None:
    """And that is what it is."""
    assert codec.encode(message)[0] == codec.MARKS[type(message)]


@given(st.binary(max_size=80))
def test_there_is_one_way_to_write_each_message(data: bytes) -> None:
    """What is taken is what would have been sent, byte for byte."""
    try:
        message = codec.decode(data)
    except RemoteProtocolError:
        return
    assert codec.encode(message) == data
