"""One end of a conversation: who may say what when, which calls are in flight, and when they are given up."""

from __future__ import annotations

import pytest

from cloister.ipc import (
    Connection,
    ConnectionClosed,
    LocalProtocolError,
    RemoteProtocolError,
    TooManyCalls,
    codec,
)
from cloister.ipc.connection import RECEIVES, State
from cloister.ipc.messages import VERSION, Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result

EVERY: dict[type[Message], Message] = {
    Hello: Hello(VERSION, b""),
    Call: Call(1, 0, "m", b""),
    Result: Result(1, b""),
    Failure: Failure(1, b""),
    Cancel: Cancel(1),
    Release: Release(0, 1),
    Note: Note("t", b""),
    Goodbye: Goodbye(b""),
}


def in_state(state: State) -> Connection:
    connection = Connection()
    if state is not State.NEW:
        connection.receive(codec.encode(Hello(VERSION, b"")))
        connection.call(0, "m", b"")
    if state is State.CLOSED:
        connection.receive(codec.encode(Goodbye(b"")))
    return connection


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("state", State)
def test_the_table_says_what_may_come_in_each_state(state: State, kind: type[Message]) -> None:
    """Each message is taken, and leads where the table says, or is a violation that changes nothing."""
    connection = in_state(state)
    following = RECEIVES[state].get(kind)
    if following is None:
        with pytest.raises(RemoteProtocolError, match=f"a {kind.__name__} while the connection is {state.value}"):
            connection.receive(codec.encode(EVERY[kind]))
        assert connection.state is state
    else:
        assert connection.receive(codec.encode(EVERY[kind])) == EVERY[kind]
        assert connection.state is following


def test_the_guest_is_ready_from_the_start_and_hears_no_hello() -> None:
    """It is the side that says hello."""
    guest = Connection(greeted=True)
    host = Connection()
    assert host.receive(guest.hello(b"account")) == Hello(VERSION, b"account")
    with pytest.raises(RemoteProtocolError, match="a Hello while"):
        guest.receive(guest.hello(b""))


@pytest.mark.parametrize("version", [0, 2, codec.MAX_NUMBER - 1])
def test_another_version_is_not_spoken(version: int) -> None:
    """The message says which versions met."""
    with pytest.raises(RemoteProtocolError, match=f"version {version}; this side speaks {VERSION}"):
        Connection().receive(codec.encode(Hello(version, b"")))


def test_calls_in_flight_are_bounded_in_both_directions() -> None:
    """One too many of our own is told to the caller; one too many of the peer's is a violation."""
    connection = Connection(greeted=True, max_calls=2)
    first, _ = connection.call(0, "m", b"")
    connection.call(0, "m", b"")
    with pytest.raises(TooManyCalls, match="2 calls"):
        connection.call(0, "m", b"")
    connection.receive(codec.encode(Result(first, b"")))
    connection.call(0, "m", b"")
    assert connection.calls_in_flight == 2
    connection.receive(codec.encode(Call(1, 0, "m", b"")))
    connection.receive(codec.encode(Call(2, 0, "m", b"")))
    with pytest.raises(RemoteProtocolError, match="more than 2 calls"):
        connection.receive(codec.encode(Call(3, 0, "m", b"")))


def test_both_sides_may_use_the_same_numbers() -> None:
    """A call's number belongs to the side that made it."""
    one, other = Connection(greeted=True), Connection(greeted=True)
    number, frame = one.call(0, "there", b"")
    back, back_frame = other.call(0, "back", b"")
    assert number == back
    assert other.receive(frame) == Call(number, 0, "there", b"")
    assert one.receive(back_frame) == Call(back, 0, "back", b"")
    for side, peer in ((one, other), (other, one)):
        answer = side.answer(Result(number, b"r"))
        assert answer is not None
        assert peer.receive(answer) == Result(number, b"r")
        assert peer.calls_in_flight == 0


@pytest.mark.parametrize("answer", [Result, Failure])
def test_forged_and_repeated_answers_are_violations(answer: type[Result | Failure]) -> None:
    """An answer to what was never asked, or to what was answered before."""
    connection = Connection(greeted=True)
    number, _ = connection.call(0, "m", b"")
    for forged in (0, number + 1, codec.MAX_NUMBER - 1):
        with pytest.raises(RemoteProtocolError, match="never made"):
            connection.receive(codec.encode(answer(forged, b"")))
    assert connection.receive(codec.encode(answer(number, b"r"))) is not None
    with pytest.raises(RemoteProtocolError, match="second answer"):
        connection.receive(codec.encode(answer(number, b"r")))


def test_a_late_answer_to_a_cancelled_call_is_taken_once() -> None:
    """The peer is known to be busy with the call until then; a second answer is a violation again."""
    connection = Connection(greeted=True)
    number, _ = connection.call(0, "m", b"")
    frame = connection.cancel(number)
    assert frame is not None
    assert codec.decode(frame) == Cancel(number)
    assert connection.cancelled.keys() == {number}
    assert connection.receive(codec.encode(Result(number, b"late"))) == Result(number, b"late")
    assert not connection.cancelled
    with pytest.raises(RemoteProtocolError, match="second answer"):
        connection.receive(codec.encode(Result(number, b"later")))


def test_cancelling_what_was_answered_or_never_made_says_nothing() -> None:
    """Nor does cancelling on a closed connection."""
    connection = Connection(greeted=True)
    number, _ = connection.call(0, "m", b"")
    connection.receive(codec.encode(Result(number, b"")))
    assert connection.cancel(number) is None
    assert connection.cancel(99) is None
    open_call, _ = connection.call(0, "m", b"")
    connection.receive(codec.encode(Goodbye(b"")))
    assert connection.cancel(open_call) is None


def test_a_withdrawn_call_was_never_made() -> None:
    """Its place is free, and it is not waited for."""
    connection = Connection(greeted=True, max_calls=1)
    number, _ = connection.call(0, "m", b"", deadline=1.0)
    connection.withdraw(number)
    assert connection.calls_in_flight == 0
    assert connection.expire(2.0) == []
    assert not connection.cancelled
    connection.call(0, "m", b"")


def test_a_call_is_answered_once_and_only_if_it_was_made() -> None:
    """A bug on this side is told from one on the other."""
    connection = Connection(greeted=True)
    with pytest.raises(LocalProtocolError, match="not open"):
        connection.answer(Result(1, b""))
    connection.receive(codec.encode(Call(1, 0, "m", b"")))
    assert connection.answer(Result(1, b"")) is not None
    with pytest.raises(LocalProtocolError, match="answered before"):
        connection.answer(Failure(1, b""))


def test_a_call_number_may_not_be_used_while_it_is_open() -> None:
    """Two calls with one number could not be told apart."""
    connection = Connection(greeted=True)
    connection.receive(codec.encode(Call(7, 0, "m", b"")))
    with pytest.raises(RemoteProtocolError, match="made twice"):
        connection.receive(codec.encode(Call(7, 0, "m", b"")))


def test_an_answer_after_the_end_is_not_sent() -> None:
    """The peer has gone; there is nothing wrong with having tried."""
    connection = Connection(greeted=True)
    connection.receive(codec.encode(Call(1, 0, "m", b"")))
    connection.receive(codec.encode(Goodbye(b"")))
    assert connection.answer(Result(1, b"")) is None
    with pytest.raises(ConnectionClosed):
        connection.call(0, "m", b"")


def test_closing_names_the_calls_that_will_have_no_answer() -> None:
    """All of them, and no deadline is left."""
    connection = Connection(greeted=True)
    calls = [connection.call(0, "m", b"", deadline=5.0)[0] for _ in range(3)]
    assert connection.close() == calls
    assert connection.next_deadline() is None
    assert connection.close() == []


def test_goodbye_is_the_last_word() -> None:
    """Nothing can be said to whoever has said it, and nothing more is heard."""
    connection = Connection(greeted=True)
    goodbye = codec.encode(Goodbye(b"enough"))
    assert connection.receive(goodbye) == Goodbye(b"enough")
    with pytest.raises(RemoteProtocolError):
        connection.receive(goodbye)
    with pytest.raises(ConnectionClosed):
        connection.call(0, "m", b"")


def test_deadlines_come_in_order_and_each_once() -> None:
    """The next one is known in advance; calls that were answered have none."""
    connection = Connection(greeted=True)
    late, _ = connection.call(0, "m", b"", deadline=30.0)
    early, _ = connection.call(0, "m", b"", deadline=10.0)
    answered, _ = connection.call(0, "m", b"", deadline=5.0)
    connection.call(0, "m", b"")
    connection.receive(codec.encode(Result(answered, b"")))
    assert connection.next_deadline() == 10.0
    assert connection.expire(9.9) == []
    assert connection.expire(10.0) == [early]
    assert connection.expire(10.0) == []
    assert connection.next_deadline() == 30.0
    assert connection.expire(99.0) == [late]
    assert connection.next_deadline() is None
    assert connection.calls_in_flight == 3


def test_answered_calls_leave_no_deadlines_behind() -> None:
    """Ten thousand calls that were answered before a far deadline do not add up."""
    connection = Connection(greeted=True)
    connection.call(0, "first", b"", deadline=1.0)
    for _ in range(10_000):
        number, _ = connection.call(0, "m", b"", deadline=1e9)
        connection.receive(codec.encode(Result(number, b"")))
        connection.next_deadline()
    assert connection._outgoing == {1: 1.0}


def test_what_was_granted_onwards_leaves_room_for_the_first_capability() -> None:
    """Whoever holds a function of a tenant's cannot keep others from calling the tenant."""
    connection = Connection(greeted=True, max_calls=8, reserve=2)
    for _ in range(6):
        connection.call(7, "m", b"")
    with pytest.raises(TooManyCalls, match="6 calls"):
        connection.call(7, "m", b"")
    connection.call(0, "m", b"")
    connection.call(0, "m", b"")
    with pytest.raises(TooManyCalls, match="8 calls"):
        connection.call(0, "m", b"")


def test_what_others_give_up_is_held_against_nobody_but_counted() -> None:
    """A call of what was granted onwards keeps its place until it is answered; the peer need not stop it in time."""
    connection = Connection(greeted=True, max_calls=4, reserve=2)
    first, _ = connection.call(7, "m", b"")
    second, _ = connection.call(7, "m", b"")
    for call in (first, second):
        assert connection.cancel(call) == codec.encode(Cancel(call))
    assert not connection.cancelled
    with pytest.raises(TooManyCalls):
        connection.call(7, "m", b"")
    connection.receive(codec.encode(Result(first, b"")))
    with pytest.raises(RemoteProtocolError, match="second answer"):
        connection.receive(codec.encode(Result(first, b"")))
    connection.call(7, "m", b"")
    own, _ = connection.call(0, "m", b"")
    connection.cancel(own)
    assert connection.cancelled.keys() == {own}
