"""One end of a conversation, without any input or output: who may say what when, and which calls are in flight.

Frames go in and messages come out; whoever owns the connection moves the bytes and keeps the time. The life of a
connection is a table. A call's number is never used twice, so an answer that comes late is told from one that was
never asked for: the first is taken, once, the second is a violation.
"""

from __future__ import annotations

import enum
from typing import Final

from . import codec
from .errors import ConnectionClosed, LocalProtocolError, RemoteProtocolError, TooManyCalls
from .messages import VERSION, Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result

MAX_CALLS: Final = 1024
_frame_of_call: Final = codec.WRITERS[Call]


class State(enum.Enum):
    """Where a connection is in its life."""

    NEW = "new"
    READY = "ready"
    CLOSED = "closed"
    __hash__ = object.__hash__  # each is one of a kind, and looked up for every message


RECEIVES: Final[dict[State, dict[type[Message], State]]] = {
    State.NEW: {Hello: State.READY},
    State.READY: {
        Call: State.READY,
        Result: State.READY,
        Failure: State.READY,
        Cancel: State.READY,
        Release: State.READY,
        Note: State.READY,
        Goodbye: State.CLOSED,
    },
    State.CLOSED: {},
}
"""What may arrive in each state, and the state that follows. The guest's end is ready from the start."""


class Connection:
    """The state of one end. `greeted=True` is the guest's end, which says hello and does not wait for one.

    `reserve` is how many of this side's calls are kept for the other side's first capability: what it has granted
    beyond that may be in hands that would leave no room for whoever has the connection.
    """

    def __init__(self, *, greeted: bool = False, max_calls: int = MAX_CALLS, reserve: int = 0) -> None:
        self.state = State.READY if greeted else State.NEW
        # With nothing in them, which they mostly have, dictionaries take a third of what sets do.
        self.cancelled: dict[int, None] = {}
        """Calls of the first capability that were given up and whose answer has not come yet: the peer is still busy
        with them."""
        self._onward: dict[int, None] = {}
        """Calls of what the peer has granted beyond that, in flight or given up: whoever has it may give up as many as
        they like, and it is not the peer that is to blame."""
        self._most_incoming = self._most_outgoing = max_calls
        self._reserve = reserve
        self._next_call = 1
        self._outgoing: dict[int, float | None] = {}
        self._incoming: dict[int, None] = {}

    def bound(self, *, incoming: int | None = None, outgoing: int | None = None) -> None:
        """Let so many calls be in flight from now on, of either side or both."""
        self._most_incoming = incoming or self._most_incoming
        self._most_outgoing = outgoing or self._most_outgoing

    @property
    def most_calls(self) -> int:
        """How many calls of this side may be in flight."""
        return self._most_outgoing

    @property
    def room(self) -> int:
        """How many calls of what the peer has granted beyond its first capability would not be one too many now."""
        return self._most_outgoing - self._reserve - max(len(self._outgoing), len(self._onward))

    @property
    def calls_in_flight(self) -> int:
        """How many calls of this side wait for their answer."""
        return len(self._outgoing)

    @property
    def next_call(self) -> int:
        """The number that the next call of this side will have."""
        return self._next_call

    def owes(self, call: int) -> bool:
        """Whether the peer has yet to answer a call of what it has granted beyond its first capability, given up or
        not."""
        return call in self._onward

    def hello(self, payload: bytes) -> bytes:
        """The guest's first frame."""
        return codec.encode(Hello(VERSION, payload))

    def call(self, target: int, method: str, payload: bytes, *, deadline: float | None = None) -> tuple[int, bytes]:
        """Begin a call: its number and its frame. `TooManyCalls` when as many are in flight as may be."""
        if self.state is State.CLOSED:
            raise ConnectionClosed("the connection is closed")
        most = self._most_outgoing - (self._reserve if target else 0)
        if len(self._outgoing) >= most or (target and len(self._onward) >= most):
            raise TooManyCalls(f"{most} calls are in flight already")
        number = self._next_call
        frame = _frame_of_call(number, target, method, payload)
        self._next_call = number + 1
        self._outgoing[number] = deadline
        if target:
            self._onward[number] = None
        return number, frame

    def cancel(self, call: int) -> bytes | None:
        """Give up on a call of this side: the frame that tells the peer, or None if it was answered meanwhile."""
        if call not in self._outgoing:
            return None
        del self._outgoing[call]
        if self.state is State.CLOSED:
            return None
        if call not in self._onward:
            self.cancelled[call] = None
        return codec.encode(Cancel(call))

    def withdraw(self, call: int) -> None:
        """Forget a call of this side whose frame could not be sent: the peer will never hear of it."""
        self._outgoing.pop(call, None)
        self._onward.pop(call, None)
        self.cancelled.pop(call, None)

    def answer(self, answer: Result | Failure) -> bytes | None:
        """The frame of an answer to a call of the peer; None if the connection closed before it was ready."""
        if answer.call not in self._incoming:
            raise LocalProtocolError(f"call {answer.call} is not open, or was answered before")
        frame = codec.encode(answer)
        self._incoming.pop(answer.call, None)
        return frame if self.state is State.READY else None

    def note(self, topic: str, payload: bytes) -> bytes:
        """The frame of something that needs no answer."""
        return codec.encode(Note(topic, payload))

    def release(self, target: int, count: int) -> bytes:
        """The frame that lets go of references which the peer granted."""
        return codec.encode(Release(target, count))

    def receive(self, frame: bytes) -> Message:
        """Take one frame in: the message to act on, which may be an answer that nobody waits for any longer.

        `RemoteProtocolError` for a frame that is malformed or may not come now; the peer cannot be trusted after it.
        """
        message = codec.decode(frame)
        kind = type(message)
        following = RECEIVES[self.state].get(kind)
        if following is None:
            raise RemoteProtocolError(f"a {kind.__name__} while the connection is {self.state.value}")
        if kind is Result or kind is Failure:
            self._answered(message[0])  # type: ignore[arg-type]
        elif kind is Call:
            self._asked(message[0])  # type: ignore[arg-type]
        elif kind is Hello and message[0] != VERSION:
            raise RemoteProtocolError(f"protocol version {message[0]!r}; this side speaks {VERSION}")
        self.state = following
        return message

    def _answered(self, call: int) -> None:
        if call in self._outgoing:
            del self._outgoing[call]
            self._onward.pop(call, None)
            return
        if call >= self._next_call or call == 0:
            raise RemoteProtocolError(f"an answer to call {call}, which was never made")
        if call not in self.cancelled and call not in self._onward:
            raise RemoteProtocolError(f"a second answer to call {call}")
        self.cancelled.pop(call, None)
        self._onward.pop(call, None)

    def _asked(self, call: int) -> None:
        if call in self._incoming:
            raise RemoteProtocolError(f"call {call} was made twice")
        if len(self._incoming) >= self._most_incoming:
            raise RemoteProtocolError(f"more than {self._most_incoming} calls in flight")
        self._incoming[call] = None

    def close(self) -> list[int]:
        """End the conversation from this side without a word. Returns the calls that will have no answer."""
        self.state = State.CLOSED
        lost = list(self._outgoing)
        self._outgoing.clear()
        return lost

    def next_deadline(self) -> float | None:
        """When `expire` should be called next, on the clock that the deadlines were given in."""
        return min((deadline for deadline in self._outgoing.values() if deadline is not None), default=None)

    def expire(self, now: float) -> list[int]:
        """The calls whose deadline has passed, the earliest first, each once. They stay in flight until `cancel` gives
        them up."""
        due = [
            (deadline, call) for call, deadline in self._outgoing.items() if deadline is not None and deadline <= now
        ]
        self._outgoing.update((call, None) for _, call in due)
        return [call for _, call in sorted(due)]
