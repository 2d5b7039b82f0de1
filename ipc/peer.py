"""The other side of a connection as something to call and to be called by: connection, capabilities and an event loop.

The transport is a function that takes a frame; what arrives is handed to `deliver`. Whether the other side is trusted,
and what to do when it breaks the rules, is said by whoever opens the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from . import codec, failures, values, walk
from .answer import Answer
from .answering import MAX_HELD, Answering, about_to_read
from .capabilities import Capability
from .connection import Connection
from .errors import ConnectionClosed, DeadlineExceeded, IpcError, PayloadError, RemoteProtocolError, TooManyCalls
from .exports import Exports, refer, resolve, take_back
from .messages import Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result
from .stubs import MAX_LINKS, Stub, dispose


class Peer:
    """Calls the other side and answers its calls.

    `send` moves a frame. `on_hello`, `on_note` and `on_closed` tell the owner what happened, `on_cancel` that a call of
    ours was given up, and whether because its time was over. `on_call` hears of each call of theirs, and of how many it
    is if it is a chain; what it raises is the answer. `trace` gives the traceback of what is raised here; without it
    neither that nor causes are told. `trusted` says whether what arrives is read without checking it first, and
    `on_read` hears how many elements each value had that was checked; `hook` is applied to each map that is read,
    and `dress` to each object that came or came back, which may be given to the reader as something else; what is sent
    may be too, by `lend`. `hold` says whether the arguments of calls may take so many bytes more, and so many in all,
    and hears when they take less; `hold_granted` likewise of what is said of capabilities that are granted.
    """

    # A host has one for each of thousands of sandboxes; the dictionary is for who puts another method in place of one
    __slots__ = (
        "__dict__", "__weakref__", "_answering", "_closed", "_dress", "_due", "_giving_back", "_hook", "_leaving",
        "_lend", "_loop", "_on_call", "_on_cancel", "_on_closed", "_on_hello", "_on_note", "_on_read", "_releasing",
        "_send", "_timer", "_trusted", "_waiting", "connection", "exports", "on_streams_over", "rebuild", "streams",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        send: Callable[[bytes], None],
        *,
        trusted: bool = False,
        hook: values.Hook | None = None,
        dress: Callable[[Any], Any] = lambda found: found,
        lend: Callable[[object], object] = lambda subject: subject,
        fatal: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
        trace: failures.Trace | None = None,
        rebuild: failures.Rebuild = failures.rebuild,
        on_hello: Callable[[bytes], None] = lambda _: None,
        on_note: Callable[[str, bytes], None] = lambda _topic, _payload: None,
        on_call: Callable[[Capability, int], None] = lambda _capability, _calls: None,
        on_read: Callable[[int], None] = lambda _: None,
        on_cancel: Callable[[int, bool], None] = lambda _call, _late: None,
        on_closed: Callable[[Exception], None] = lambda _: None,
        hold: Callable[[int, int], bool] = lambda _more, held: held <= MAX_HELD,
        hold_granted: Callable[[int, int], bool] = lambda _more, held: True,
    ) -> None:
        self.connection = connection
        self.exports = Exports(hold_granted)
        self._send = send
        self._trusted = trusted
        self._hook = hook
        self._dress, self._lend = dress, lend
        self.rebuild = rebuild
        """What makes an exception of what was raised over there."""
        self._on_hello, self._on_note, self._on_closed = on_hello, on_note, on_closed
        self._on_call, self._on_cancel, self._on_read = on_call, on_cancel, on_read
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Answer] = {}
        self._answering = Answering(self._loop, hold, fatal, trace)
        self._timer: Any = None
        self._leaving: list[tuple[int | None, tuple[bytes, ...]]] = []
        self._releasing = False
        self._giving_back = 0
        self.streams: dict[int, int] = {}
        """Streams of the other side that are open here, and how often each is held."""
        self.on_streams_over: Callable[[], None] = lambda: None
        """Called when the last of them was let go of."""
        self._due = math.inf  # when the timer goes off: not before the earliest deadline, and often for nothing
        self._closed: Exception | None = None

    async def call(self, target: int, method: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """Call the other side. `DeadlineExceeded`, `RemoteError`, `ConnectionClosed`, `TooManyCalls`."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # which would grow each time, and hold all that was called
        deadline = None if timeout is None else self._loop.time() + timeout
        try:
            number, frame = self.connection.call(target, method, payload, deadline=deadline)
        except IpcError:
            self._take_back(payload)
            raise
        answer = self._waiting[number] = Answer(self._loop)
        if deadline is not None and deadline < self._due:
            self._arm()
        try:
            self._send(frame)
        except Exception as error:  # in a sandbox it may be that there is no memory for it
            del self._waiting[number]
            self.connection.withdraw(number)
            if not isinstance(error, ConnectionClosed):  # with whose end all is let go of
                self._take_back(payload)
            raise
        del frame  # which may be large, and the answer far away
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.came:  # as the caller gave up
                self.discard(answer.result())
            raise
        finally:
            if self._waiting.pop(number, None) is not None:
                self._give_up(number)

    def note(self, topic: str, payload: bytes) -> bool:
        """Say something that needs no answer: False if the other side does not read."""
        return self._closed is not None or self._try_to_send(self.connection.note(topic, payload))

    def deliver(self, frame: bytes) -> None:
        """Take a frame that arrived. A frame that breaks the rules closes the peer with a `RemoteProtocolError`."""
        if self._closed is not None:
            return
        try:
            message = self.connection.receive(frame)
            _ACTIONS[type(message)](self, message)
        except RemoteProtocolError as error:
            self.close(error)

    def close(self, error: Exception, *, held_for: float = 0.0) -> None:
        """End the conversation. Calls in flight raise `error`, and so does every later one. Harmless when repeated.

        What was granted is let go of, at once or so many seconds later.
        """
        if self._closed is not None:
            return
        self._closed = error
        self.connection.close()
        if self._timer is not None:
            self._timer.cancel()
        for answer in self._waiting.values():
            answer.fail(error)
        self._waiting.clear()
        self.streams.clear()
        self._answering.cancel_all()
        if held_for or self._giving_back:  # in the next turn, what was answered before the end is read
            self._loop.call_later(held_for, self.exports.clear)
        else:
            self.exports.clear()
        self._on_closed(error)

    @property
    def closed(self) -> bool:
        """Whether the conversation is over."""
        return self._closed is not None

    @property
    def base(self) -> Peer:
        """See `Channel.base`."""
        return self

    def encode(self, value: object, *, exact: bool = False) -> bytes:
        """Encode a value, granting the capabilities in it to the other side. `CodecError`, and then none is granted.
        See `values.dumps`."""
        if type(value) is values.Encoded:
            return value.data
        granted: list[int] = []

        def export(subject: object) -> bytes | None:
            return refer(self._lend(subject), self, self.exports, granted)

        try:
            return values.dumps(value, export=export, exact=exact)
        except BaseException:
            for number in granted:
                self.exports.release(number, 1)
            raise

    def decode(self, payload: bytes) -> tuple[Any, list[Stub]]:
        """Decode a value that arrived, and name the stubs in it that are lent. `PayloadError`, `CapabilityError`."""
        if payload[:1] in walk.LEAVES:
            return values.leaf(payload), []
        stubs: list[Stub] = []

        def adopt(reference: bytes) -> object:
            found = resolve(reference, self, self.exports)
            if type(found) is Stub:  # a stream belongs to whoever was given it
                stubs.append(found)
                return self._dress(found)
            if isinstance(found, Stub) and found._channel is self:
                self.streams[found._target] = self.streams.get(found._target, 0) + 1
                return found
            return self._dress(found)

        if not self._trusted:
            self.scan(payload)
        return values.loads(payload, adopt=adopt, hook=self._hook, trusted=True), stubs

    def scan(self, payload: bytes) -> None:
        """Look whether a value that arrived may be read, which `on_read` hears of. If it then closes the peer, nothing
        is read for it any longer."""
        closed = self._closed
        elements = values.scan(payload)
        self._on_read(elements)
        if self._closed is not None and self._closed is not closed:
            raise self._closed
        self._answering.read(self, payload, elements)

    def let_go(self, target: int | None, unread: tuple[bytes, ...] = ()) -> None:
        """Drop one reference to a capability of the other side, and what is in values that nobody will read. Safe from
        any thread, and after the end."""
        if self._closed is None and not self._loop.is_closed():
            self._leaving.append((target, unread))
            if not self._releasing:  # the loop is woken once, however many are let go of together
                self._releasing = True
                self._loop.call_soon_threadsafe(self._release_all)

    def _release_all(self) -> None:
        self._releasing = False  # first: who comes from here on either is among them or wakes the loop again
        while leaving := self._leaving[:]:
            del self._leaving[: len(leaving)]  # whoever adds one meanwhile, in whatever thread, adds it behind these
            for target, unread in leaving:
                self._release(target, unread)

    def _release(self, target: int | None, unread: tuple[bytes, ...]) -> None:
        for payload in unread:
            self.discard(payload)
        if self._closed is None and target is not None:
            self._try_to_send(self.connection.release(target, 1))
            if target in self.streams:
                self.streams[target] -= 1
                if not self.streams[target]:
                    del self.streams[target]
                    if not self.streams:
                        self.on_streams_over()

    def discard(self, payload: bytes) -> None:
        """Let go of the capabilities in a value of the other side that nobody will read."""
        if self._closed is None:
            with contextlib.suppress(IpcError):
                dispose(self.decode(payload)[1])

    def _take_back(self, payload: bytes) -> None:
        """Let go of the capabilities in a value of this side that was not sent."""
        with contextlib.suppress(IpcError):
            values.loads(payload, adopt=lambda reference: take_back(reference, self.exports), trusted=True)

    def _parted(self, goodbye: Goodbye) -> None:
        reason = failures.printable(goodbye.payload[: failures.MAX_TEXT].decode("utf-8", "replace"))
        self.close(ConnectionClosed(" ".join(reason.split())[: failures.MAX_TEXT] or "the other side said goodbye"))

    def _given_back(self, release: Release) -> None:
        # After whoever waited for a result that came before it has read it, and found the capability there.
        self._giving_back += 1
        self._loop.call_soon(self._released, *release)

    def _released(self, target: int, count: int) -> None:
        self._giving_back -= 1
        try:
            self.exports.release(target, count)
        except RemoteProtocolError as error:
            self.close(error)

    def _settle(self, result: Result) -> None:
        call, payload = result
        answer = self._waiting.pop(call, None)
        soon = self._giving_back > 0  # what was let go of before is gone when this is read
        if answer is None or not answer.settle(payload, soon=soon):  # given up, perhaps in this very turn
            self.discard(payload)

    def _fail(self, failure: Failure) -> None:
        error = failures.read(failure.payload, self.rebuild)
        if (answer := self._waiting.pop(failure.call, None)) is not None:
            answer.fail(error)

    def reply(self, answer: Result | Failure) -> None:
        """Say what has come of a call of theirs, or that it cannot be said."""
        if self._closed is None:
            try:
                frame = self.connection.answer(answer)
            except (IpcError, MemoryError) as error:
                self._take_back(answer.payload)
                frame = self.connection.answer(Failure(answer.call, failures.tell(error)))
            if frame is not None:
                self._send_answer(answer, frame)

    def _send_answer(self, answer: Result | Failure, frame: bytes) -> bool:
        """Whether it was sent. One that there is no room for, or no memory to send it with, is replaced by one that
        says so: somebody waits for it."""
        try:
            self._send(frame)
            return True
        except (TooManyCalls, MemoryError) as error:
            self._take_back(answer.payload)
            told = failures.tell(error, about="the answer cannot be sent")
            self._try_to_send(codec.encode(Failure(answer.call, told)))
        except IpcError:
            pass
        return False

    def forward(self, target: int, method: str, payload: bytes) -> Awaitable[bytes]:
        """Answer a call of the other side, which may have come inside another one. What is returned is to be awaited at
        once."""
        try:
            calls = method.count(".") + 1
            if calls > MAX_LINKS:  # it may have come inside another call, where no name is bounded
                raise PayloadError(f"a chain of {calls:,} calls; at most {MAX_LINKS} are made")
            capability: Capability = self.exports.get(target)
            self._on_call(capability, calls)
            if self._closed is not None:  # by whoever heard of it
                raise self._closed
        except Exception:
            self.discard(payload)
            raise
        about_to_read(payload)
        return capability.answer(method, payload, self)

    def _give_up(self, call: int, *, late: bool = False) -> None:
        frame = self.connection.cancel(call)
        if frame is not None and self._closed is None:
            self._try_to_send(frame)
            self._on_cancel(call, late)

    def _try_to_send(self, frame: bytes) -> bool:
        """Send what nobody waits for: if it cannot be sent, the other side does not read, or is gone."""
        try:
            self._send(frame)
        except IpcError as error:
            return isinstance(error, ConnectionClosed)
        return True

    def _arm(self) -> None:
        # It is left to run when calls are answered: there is one for all of them, and it is late for none.
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.connection.next_deadline()
        self._due = math.inf if deadline is None else deadline
        self._timer = None if deadline is None else self._expire_at(deadline)

    def _expire_at(self, deadline: float) -> Any:
        """A timer for then; if it goes off earlier, the next one follows."""
        return self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for call in self.connection.expire(self._loop.time()):
            if (answer := self._waiting.pop(call, None)) is not None:
                answer.fail(DeadlineExceeded("no answer came within the time that was given for it"))
            self._give_up(call, late=True)
        self._arm()


_ACTIONS: Final[Mapping[type[Message], Callable[[Peer, Any], None]]] = {
    Result: Peer._settle,
    Call: lambda peer, call: peer._answering.begin(peer, call),
    Failure: Peer._fail,
    Cancel: lambda peer, cancel: peer._answering.cancel(cancel.call),
    Release: Peer._given_back,
    Note: lambda peer, note: peer._on_note(*note),
    Hello: lambda peer, hello: peer._on_hello(hello.payload),
    Goodbye: Peer._parted,
}
"""What is done about each message."""
