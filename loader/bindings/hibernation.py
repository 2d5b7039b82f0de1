"""Web sockets that durable objects have accepted: they stay open in the host while their object is not there.

What a client says is a call of its object, which is made anew for it if need be, and finds the sockets that are open
with what it has kept with each. So a sandbox may leave whose objects only wait for their clients, and none of them
notices.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from cloister.ipc import CapabilityError, IpcError, Stub, values
from cloister.ipc.capabilities import end, spread
from cloister.ipc.stubs import Channel
from cloister.sandbox import SandboxError

from ..errors import LoaderError, TenantError
from ..http.sockets import Line, Message, Way, WebSocket, say
from ..quoting import quoted
from .storage import StorageQuotaExceeded

_log = logging.getLogger("cloister.objects")
_MOST: Final = 32_768
_MOST_WAITING: Final = 1024
"""Those that their objects have accepted and not yet answered with."""
_MOST_TAGS: Final = 10
_MOST_TAG: Final = 256
_MOST_ATTACHED: Final = 16 * 1024
_MOST_ATTACHED_IN_ALL: Final = 64 * 1024 * 1024
_MOST_ANSWER: Final = 2048
_AT_ONCE: Final = 64
"""Messages that one call brings an object: each is a call of its own, however short it is."""
_LOST, _FAILED = 1006, 1011
_BROKEN: Final = frozenset({1002, _LOST, 1009, 1013})
"""How one ends that nobody has meant to end."""
_GONE: Final = "WebSocket disconnected without sending Close frame."
Call = Callable[[str, list[Any]], Awaitable[Any]]
"""Calls a method of the object, wherever that is."""


class Held:
    """What the host holds for all objects of one tenant."""

    def __init__(self) -> None:
        self.open = self.waiting = self.attached = 0

    def accept(self, size: int) -> None:
        """One more, with tags of so many bytes. `StorageQuotaExceeded` if it would be one too many, or too much."""
        if self.open >= _MOST or self.waiting >= _MOST_WAITING:
            raise StorageQuotaExceeded(
                f"a tenant's objects have at most {_MOST:,} web sockets, and {_MOST_WAITING:,} that are not answered"
                " with"
            )
        self.attach(size)
        self.open += 1
        self.waiting += 1

    def attach(self, more: int) -> None:
        """So many bytes more are kept with them, or less. `StorageQuotaExceeded`, and then they are not."""
        if more > 0 and self.attached + more > _MOST_ATTACHED_IN_ALL:
            raise StorageQuotaExceeded(f"a tenant attaches at most {_MOST_ATTACHED_IN_ALL:,} bytes to web sockets")
        self.attached += more


class Accepted(WebSocket):
    """One of them, at the end that speaks to the client."""

    def __init__(self, among: Sockets, number: int, tags: list[str]) -> None:
        super().__init__(None)
        self._among, self.number, self.tags = among, number, tags
        self.attachment = b""
        self.answered_ms: float | None = None
        self._call: Call | None = None
        self._ending = False
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def connected(self) -> bool:
        """Whether there is a client that its object is told of."""
        return self._connected.done()

    def bind(self, call: Call) -> Accepted:
        """Its object has answered with it, and is called so from now on."""
        self._call = call
        return self

    async def connect(self, line: Any) -> Any:
        """The client is at the end of this line."""
        if self.connected or self.closed is not None:
            raise CapabilityError("the web socket is not to be had any longer")
        self._told = line.dup() if isinstance(line, Stub) else line
        if isinstance(line, Line):
            line.granted()  # on whose behalf this host speaks
        self._connected.set_result(None)
        self._among.held.waiting -= 1
        return ToObject(self, direct=isinstance(line, Line))

    async def tell(self, messages: list[Any]) -> None:
        """What the object says to its client, until that has taken it."""
        await self._connected
        await say(self._told, "receive", messages)

    async def leave(self, code: int, reason: str) -> None:
        """The object says no more."""
        await self._connected
        await say(self._told, "close", code, reason)
        self._forget()

    async def hear(self, message: Message) -> None:
        """What the client says. Some of it is answered without the object."""
        automatic = self._among.automatic
        if automatic is not None and message == automatic[0]:
            self.answered_ms = time.time() * 1000
            await self.tell([automatic[1]])
        else:
            await self._event("webSocketMessage", message)

    async def ended(self, code: int, reason: str) -> None:
        """The client says no more: whether it has said so or not."""
        if self._ending or self._among.open.get(self.number) is not self:
            return
        self._ending = True
        if code in _BROKEN:
            await self._event("webSocketError", reason or _GONE)
        await self._event("webSocketClose", code, reason or (_GONE if code == _LOST else ""), code != _LOST)
        self._forget()

    async def _event(self, method: str, *args: Any) -> None:
        if self._call is None:
            return
        try:
            await self._call(method, [self.number, *args])
        except TenantError:
            return  # its tails have it, and the next message is no worse for it
        except (SandboxError, LoaderError, IpcError) as error:
            _log.warning("a web socket of an object was told %s in vain: %s", method, quoted(error))
            if method == "webSocketMessage":
                await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        """What the client said may not have been heard: it had better know."""
        if isinstance(self._told, Line):
            await self._told.close(_FAILED, "the object was not done with a message")
        await self.ended(_FAILED, str(error))

    def _forget(self) -> None:
        if self._among.open.pop(self.number, None) is not None:
            held = self._among.held
            held.open -= 1
            held.waiting -= not self.connected
            held.attach(-len(self.attachment) - _bytes_of(self.tags))
        told, self._told = self._told, None
        self.end(1000, "")
        self._connected.cancel()
        if isinstance(told, Stub):
            told.dispose()
        elif isinstance(told, Line):
            told.dropped()
        self._among.changed()

    def cut_off(self, reason: str) -> None:
        """There is no object any longer."""
        if isinstance(self._told, Line):
            self._told.end(reason)
        self._forget()

    def lose(self, reason: str) -> None:
        """Its client has not taken what it was told, and had better begin anew. The object is told of the end."""
        if isinstance(self._told, Line):
            self._told.end(reason)
        elif isinstance(self._told, Stub):
            self._told.dispose()
        asyncio.get_running_loop().create_task(self.ended(_LOST, reason))

    def dispose(self) -> None:
        """Nobody wants it any longer. If its client was never there, nobody need be told."""
        if not self.connected:
            self._forget()

    @property
    def stays(self) -> bool:
        """Whether it is spoken on by this host, and needs none of those that have passed it on."""
        return self.connected and isinstance(self._told, Line)


class ToObject(Way):
    """What a client tells an object, by way of this host."""

    uncounted = True
    attributes: Mapping[str, Any] = {}

    def __init__(self, socket: Accepted, *, direct: bool) -> None:
        self._socket, self._direct = socket, direct
        self._holders = 0

    def granted(self) -> None:
        """One more connection holds it."""
        self._holders += 1

    def dropped(self) -> None:
        """One connection holds it no longer: the worker that spoke is gone, unless it has only passed it on."""
        self._holders -= 1
        if not self._holders and not self._direct:
            asyncio.get_running_loop().create_task(self._socket.ended(_LOST, ""))

    async def receive(self, messages: list[Any]) -> None:
        """Messages, until the object is done with them."""
        await asyncio.gather(*(self._socket.hear(message) for message in messages))

    async def close(self, code: int, reason: str) -> None:
        """There are no more."""
        await self._socket.ended(code, reason)

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """The same from another worker."""
        arguments, stubs = channel.decode(payload)
        end(stubs, None)
        match method, spread(arguments)[0]:
            case "receive", [list(messages)] if len(messages) > _AT_ONCE:
                raise CapabilityError(f"at most {_AT_ONCE} messages are told at once, not {len(messages):,}")
            case "receive", [list(messages)] if all(isinstance(message, str | bytes) for message in messages):
                await self.receive(messages)
            case "close", [int(code), str(reason)]:
                await self.close(code, reason)
            case _:
                raise CapabilityError(f"a web socket is not told {method!r:.40}")
        return values.dumps(None)


class Sockets:
    """Those of one object that are open. `changed` is called when there is one less."""

    def __init__(self, held: Held, changed: Callable[[], None]) -> None:
        self.open: dict[int, Accepted] = {}
        self.held, self.changed = held, changed
        self.automatic: tuple[str, str] | None = None
        """What is answered to which message without asking the object."""
        self.event_ms: int | None = None
        """How long a call for one of them may take, where the object has said so."""
        self._numbers = itertools.count(1)

    def accept(self, tags: object) -> int:
        """The object has accepted one; its number."""
        if not isinstance(tags, list) or len(tags) > _MOST_TAGS:
            raise TypeError(f"a web socket has a list of at most {_MOST_TAGS} tags")
        if not all(isinstance(tag, str) and len(tag) <= _MOST_TAG for tag in tags):
            raise TypeError(f"a tag of a web socket is text of at most {_MOST_TAG} characters")
        self.held.accept(_bytes_of(tags))
        number = next(self._numbers)
        self.open[number] = Accepted(self, number, tags)
        return number

    def of(self, number: object) -> Accepted:
        """One of them. `CapabilityError` if it is not open."""
        found = self.open.get(number) if isinstance(number, int) else None
        if found is None:
            raise CapabilityError("the web socket is closed")
        return found

    def attach(self, number: object, value: object) -> None:
        """Keep something with one."""
        if not isinstance(value, bytes) or len(value) > _MOST_ATTACHED:
            raise TypeError(f"what is attached to a web socket has at most {_MOST_ATTACHED:,} bytes")
        one = self.of(number)
        self.held.attach(len(value) - len(one.attachment))
        one.attachment = value

    def answer(self, pair: object) -> None:
        """What to answer without asking the object."""
        match pair:
            case None:
                self.automatic = None
            case [str(request), str(response)] if max(len(request), len(response)) <= _MOST_ANSWER:
                self.automatic = request, response
            case _:
                raise TypeError(f"an automatic answer is two texts of at most {_MOST_ANSWER:,} characters")

    def known(self) -> list[list[Any]]:
        """What an object is told of them that was made anew."""
        return [[one.number, one.tags, one.attachment, one.answered_ms] for one in self.open.values() if one.connected]

    def lose_unconnected(self) -> None:
        """The sandbox is gone: those that were not yet answered with will not be."""
        for one in [one for one in self.open.values() if not one.connected]:
            one.dispose()

    def cut_off(self, reason: str) -> None:
        """There is no object any longer."""
        for one in list(self.open.values()):
            one.cut_off(reason)


def _bytes_of(tags: list[str]) -> int:
    return sum(len(tag.encode("utf-8", "replace")) for tag in tags)
