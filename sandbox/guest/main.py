"""A guest's life: greet the host over the connection that it was born with, answer calls until the host is gone.

It runs after the lockdown. Everything it needs is imported by then.
"""

from __future__ import annotations

import _socket
import asyncio
import functools
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloister.ipc import values, zmtp
from cloister.ipc.connection import Connection
from cloister.ipc.peer import Peer

from .. import exits
from . import failure, heap, scope
from .crossing import dress, lend
from .loop import Loop
from .output import Output
from .questions import Questions
from .values import JsDict
from .wire import Wire
from .worker import Worker

_AT_REST = 3.0
"""Seconds after which whoever came for code that was imported has been served, and the compiler has done its work. Who
is evicted before that need not tidy up."""


class GuestPeer(Peer):
    """The host, as seen from inside. A run that is over reaches it no longer."""

    _calls = 0
    """Of the program's own, that are in flight or wait for room."""
    _line: Questions | None = None

    @functools.cached_property
    def questions(self) -> Questions:
        """What its runs ask. Made for the first of them, when it is known how many calls may be in flight."""
        questions = self._line = Questions(self)
        self._on_note = questions.hear
        return questions

    async def call(self, target: int, method: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """Call the host."""
        run = scope.still_wanted()
        run.busy += 1
        self._calls += 1
        try:
            if self._line is not None and self._line.crowded and self._calls <= self.connection.most_calls:
                await self._room(self._line, payload)
            if (mark := scope.inside.get()) is not None:  # said to the host by way of the run that it belongs to
                payload = values.dumps([mark, target, method, payload])
                target, method = run.journal, "through"
            return await super().call(target, method, payload, timeout=timeout)
        finally:
            run.busy -= 1
            self._calls -= 1

    async def _room(self, line: Questions, payload: bytes) -> None:
        """Wait until what the runs ask has left room for a call, unless the loop is held up for it."""
        if not scope.held_up:
            try:
                await line.room()
            except BaseException:
                self._take_back(payload)
                raise

    def stir(self) -> None:
        """The host has said something."""
        if self._line is not None:
            self._line.stir()


class Stage:
    """What a guest needs and the zygote can prepare: the loop, and the streams that a tenant prints to."""

    def __init__(self) -> None:
        os.environ.pop("TZ", None)  # which was the zygote's: from here on there is no file to read another from
        self.loop = Loop()
        self.output = Output()
        self.output.install()
        self.warm_up: Callable[[Callable[[], None]], None] = lambda then: then()
        """What to do before the host is greeted; then, what to go on with."""
        self.stretch: Callable[[], None] = lambda: None
        """What to do when the host says, by a note, that code is about to come."""
        asyncio.set_event_loop(self.loop)

    def serve(self, descriptor: int, account: Mapping[str, int]) -> int:
        """Live. Returns what to exit with, which tells the host that it was the connection that ended."""
        self.converse(_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor), account)
        return exits.CUT_OFF

    def converse(self, connection: _socket.socket, account: Mapping[str, int]) -> None:
        """Answer calls that come over a connection, until it ends."""
        self.loop.reopen()
        wire = Wire(connection, self.loop)
        self.loop.call_soon(self._open, wire, dict(account))
        self.loop.run_forever()

    def peer(self, send: Callable[[bytes], None], imported: Callable[[], object] = lambda: None) -> GuestPeer:
        """The other end of a conversation, whose frames go to `send`. `imported` is told when there is code."""
        connection = Connection(greeted=True)
        peer = GuestPeer(
            connection,
            send,
            trusted=True,
            fatal=(),
            hook=JsDict,
            trace=failure.trace,
            rebuild=failure.rebuild,
            dress=dress,
            lend=lend,
            on_note=lambda _topic, _payload: self.stretch(),
            on_closed=lambda _: self.loop.stop(),
        )
        peer.exports.grant(Worker(self.output, connection, imported))
        return peer

    def _open(self, wire: Wire, account: dict[str, int]) -> None:
        wire.write(zmtp.OPENING)
        self.warm_up(lambda: self._greet(wire, account))

    def _greet(self, wire: Wire, account: dict[str, int]) -> None:
        loop, output = self.loop, self.output
        peer = self.peer(wire.send, lambda: loop.call_later(_AT_REST, heap.give_back))
        wire.deliver, wire.stir = peer.deliver, peer.stir
        output.note, output.backlog = peer.note, wire.backlog
        background = scope.Background(
            lambda count: peer.note("background", values.dumps(count)),
            lambda what, error: output.say("error", f"{what}\n{failure.trace(error)}"),
        )
        scope.set_background(background)
        scope.pump, scope.loop = wire.pump, loop
        loop.set_exception_handler(lambda _, context: output.say("error", _unhandled(context)))
        loop.add_reader(wire.descriptor, wire.serve)
        account["ready"] = time.monotonic_ns()
        wire.send(peer.connection.hello(values.dumps(account)))


def _unhandled(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message', 'unhandled')}\n{failure.trace(error) if error is not None else ''}"
