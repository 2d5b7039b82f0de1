"""Durable objects inside a sandbox: one object for each id, what it is called with, and stubs of others.

A call begins when nothing else of its object is about to happen at once: storage answers without giving the loop its
turn, so that nobody else's call comes between reading a value and writing it. That there is one object of an id and no
other is the host's business. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from cloister.ipc.stubs import Stub

from . import entrypoints, scope
from .handlers import wanted
from .hibernation import EVENTS, PART, Sockets
from .storage import Storage
from .worker import result

_ID: Final = re.compile(r"[0-9a-f]{64}")
_RELAXED: Final = frozenset({"fetch", "alarm"})
_here: dict[tuple[str, str], _Held] = {}
"""The objects that are in this sandbox, by class and id."""


class DurableObject(entrypoints._Entrypoint):
    """Base class of objects that there is one of for each id: `self.ctx.storage` is what lasts."""

    __module__ = "workers"


class ObjectAborted(BaseException):
    """The object ended itself. Nothing to catch."""

    __module__ = "workers"


class DurableObjectId:
    """Which object."""

    __module__ = "workers"

    def __init__(self, text: str, name: str | None = None) -> None:
        self._text, self.name = text, name

    def toString(self) -> str:  # noqa: N802 - the names of the SDK
        """64 digits."""
        return self._text

    to_string = __str__ = toString

    def equals(self, other: object) -> bool:
        """Whether it is the same object's."""
        return isinstance(other, DurableObjectId) and other._text == self._text

    __eq__ = equals

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"DurableObjectId({self._text!r}, name={self.name!r})"


class State:
    """The `ctx` of an object."""

    __module__ = "workers"

    def __init__(self, held: _Held, id: DurableObjectId, storage: Storage, props: Any) -> None:  # noqa: A002
        self._held = held
        self.id, self.storage, self.props = id, storage, props

    def waitUntil(self, work: Awaitable[Any]) -> None:  # noqa: N802
        """See `workers.wait_until`."""
        scope.wait_until(work)

    wait_until = waitUntil

    def blockConcurrencyWhile(self, function: Callable[[], Any]) -> Awaitable[Any]:  # noqa: N802
        """Have no call begin until the function is done, which begins at once. What it gives; if it raises, the object
        is done with."""
        return self._held.block(function)

    block_concurrency_while = blockConcurrencyWhile

    def abort(self, reason: Any = None) -> None:
        """End the object: whoever waits for it is told the reason, and the next call finds a new one."""
        raise ObjectAborted(str(reason or "the object was aborted"))

    def acceptWebSocket(self, socket: Any, tags: Any = ()) -> None:  # noqa: N802
        """Have `webSocketMessage(ws, message)` called, `webSocketClose(ws, code, reason, wasClean)`, and
        `webSocketError(ws, error)` if the connection breaks; also if this object has left meanwhile."""
        self._held.sockets.accept(socket, tags)

    def getWebSockets(self, tag: str | None = None) -> list[Any]:  # noqa: N802
        """Those that were accepted and are open, or those of a tag."""
        return self._held.sockets.tagged(tag)

    @property
    def container(self) -> Any:
        """`NotImplementedError`: the host has no containers."""
        raise NotImplementedError("ctx.container: there are no containers here. Ask the host for a binding in env that "
                                  "reaches the service")  # fmt: skip

    accept_websocket, get_websockets = acceptWebSocket, getWebSockets

    def getTags(self, socket: Any) -> list[str]:  # noqa: N802
        """With what one was accepted."""
        return self._held.sockets.tags(socket)

    def setWebSocketAutoResponse(self, pair: Any = None) -> None:  # noqa: N802
        """What is answered to one message without calling the object; nothing without a pair."""
        self._held.sockets.auto_response = pair

    def getWebSocketAutoResponse(self) -> Any:  # noqa: N802
        """That pair, None if there is none."""
        return self._held.sockets.auto_response

    def getWebSocketAutoResponseTimestamp(self, socket: Any) -> Any:  # noqa: N802
        """When that was last answered on one of them."""
        return self._held.sockets.answered(socket)

    def setHibernatableWebSocketEventTimeout(self, milliseconds: int | None = None) -> None:  # noqa: N802
        """How long one event may take, where that is less than a call may."""
        self._held.sockets.event_ms = milliseconds

    def getHibernatableWebSocketEventTimeout(self) -> int | None:  # noqa: N802
        """That, None if it was not set."""
        return self._held.sockets.event_ms


class _Held:
    """One object, and whether calls may begin."""

    def __init__(self, key: tuple[str, str]) -> None:
        self._key = key
        self._blocking: set[asyncio.Future[Any]] = set()
        self.broken: BaseException | None = None
        self.subject: Any = None
        self.storage: Storage | None = None
        self.sockets: Sockets

    def block(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        work = asyncio.ensure_future(result(function))
        self._blocking.add(work)
        work.add_done_callback(self._done)
        return work

    def _done(self, work: asyncio.Future[Any]) -> None:
        self._blocking.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            self.discard(error)

    def discard(self, error: BaseException) -> None:
        """The next call finds a new one."""
        self.broken = error
        self.sockets.close()
        if _here.get(self._key) is self:
            del _here[self._key]

    async def told(self, method: str, *args: Any) -> None:
        if not hasattr(self.subject, method):
            return
        await self.turn()
        try:
            await result(entrypoints.method(self.subject, method), *args)
        except ObjectAborted as end:
            self.discard(end)

    async def turn(self) -> None:
        """Wait until a call may begin."""
        await asyncio.sleep(0)  # whoever waits for storage holds the loop up, and is not to be overtaken
        current = asyncio.current_task()
        while waits := {work for work in self._blocking if work is not current}:
            await asyncio.wait(waits)
        if self.broken is not None:
            raise RuntimeError(f"the object could not begin: {self.broken}") from self.broken


async def call(
    kind: type[Any], about: Mapping[str, Any], storage: Stub, method: str, args: list[Any], kwargs: dict[str, Any]
) -> Any:
    """Call a method of an object, which is made if it is not here. `about`: its class, id, name and props."""
    key = about["class"], about["id"]
    held = _here.get(key)
    here = held is not None and held.storage is not None and held.storage._stub._target == storage._target
    if method == PART:
        return await held.sockets.part(*args) if held is not None and here else []
    if held is None or not here:
        held = _here[key] = _make(kind, key, about, storage.dup())
    await held.turn()
    if method in EVENTS:
        return await held.sockets.event(method, *args)
    if method == "alarm" and not hasattr(kind, "alarm"):
        print(f"the alarm of {about['name'] or about['id']} rang, and {kind.__name__} has no alarm()", file=sys.stderr)
        return None
    function = entrypoints.method(held.subject, method)
    if method in _RELAXED:
        args = wanted(function, args)
    elif kwargs:
        args, kwargs = entrypoints.fit(function, args, kwargs)
    try:
        return await result(function, *args, **kwargs)
    except ObjectAborted as end:
        held.discard(end)
        raise RuntimeError(f"the object was aborted: {end}") from end


def _make(kind: type[Any], key: tuple[str, str], about: Mapping[str, Any], storage: Stub) -> _Held:
    held = _Held(key)
    held.storage, held.sockets = Storage(storage), Sockets(held.told, storage)
    state = State(held, DurableObjectId(about["id"], about["name"]), held.storage, about["props"])
    held.subject = kind(state, scope.env())
    return held


class DurableObjectNamespace:
    """Objects of one class: `env.COUNTERS.getByName("a")`, `env.COUNTERS.get(id)`."""

    __module__ = "workers"

    def __init__(self, stub: Stub) -> None:
        self._stub = stub

    def idFromName(self, name: str) -> DurableObjectId:  # noqa: N802 - the names of the SDK
        """The id that a name always has."""
        return DurableObjectId(hashlib.sha256(f"{self._stub._attributes['name']}\n{name}".encode()).hexdigest(), name)

    def idFromString(self, text: str) -> DurableObjectId:  # noqa: N802
        """An id that was written down."""
        if not isinstance(text, str) or not _ID.fullmatch(text):
            raise TypeError(f"Invalid Durable Object ID: must be 64 hex digits, not {text!r:.80}")
        return DurableObjectId(text)

    def newUniqueId(self, *_: Any, **__: Any) -> DurableObjectId:  # noqa: N802
        """The id of an object that nobody has yet."""
        return DurableObjectId(secrets.token_hex(32))

    def get(self, id: DurableObjectId, *_: Any, **__: Any) -> DurableObjectStub:  # noqa: A002
        """A stub for an object, without asking anybody."""
        return DurableObjectStub(self._stub, id)

    def getByName(self, name: str, *_: Any, **__: Any) -> DurableObjectStub:  # noqa: N802
        """A stub for the object of a name."""
        return self.get(self.idFromName(name))

    id_from_name, id_from_string, new_unique_id, get_by_name = idFromName, idFromString, newUniqueId, getByName


class DurableObjectStub:
    """One object, to be called: its methods, and `fetch`."""

    __module__ = "workers"

    def __init__(self, stub: Stub, id: DurableObjectId) -> None:  # noqa: A002
        self._stub, self.id = stub, id

    @property
    def name(self) -> str | None:
        """The name that its id was made of, if it was."""
        return self.id.name

    def fetch(self, resource: Any, given: Any = None, /, **options: Any) -> Awaitable[Any]:
        """Have it answer a request, whose options may be a map. That begins when it is called."""
        from .http import Request

        options = {**(given or {}), **options}
        request = resource if isinstance(resource, Request) and not options else Request(resource, **options)
        answer: Awaitable[Any] = asyncio.ensure_future(self._stub.fetch(str(self.id), self.name, request))
        return answer

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)

        def called(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            call = self._stub.call(str(self.id), self.name, method, list(args), kwargs)
            return asyncio.ensure_future(call)  # type: ignore[no-any-return]

        return called

    def __repr__(self) -> str:
        return f"<stub of {self.id!r}>"


def received(_: Mapping[str, Any], stub: Stub) -> DurableObjectNamespace:
    """A binding that the host has granted."""
    return DurableObjectNamespace(stub)
