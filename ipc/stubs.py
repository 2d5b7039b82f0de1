"""Stubs: remote objects as something to call, and how long they are held.

Lifetimes follow https://developers.cloudflare.com/workers/runtime-apis/rpc/lifecycle/: a stub received as a parameter
is let go when the call returns, unless `dup()` made a longer-lived one; a stub received as a result lives until it is
disposed of or collected; a stream belongs to whoever was given it. A call is made when it is awaited, and what is
written down before of its result, calls and properties, goes along with it: a chain is one round trip. The module
refuses to know what is behind a stub.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, Self, TypeVar

from .codec import MAX_NAME
from .errors import CapabilityError, CodecError
from .values import Named

MAX_LINKS: Final = 16
"""Calls that one chain may have; to read a property counts as one."""
READ: Final = (False, None)
"""What stands in place of the arguments of a call where a property is read."""


class _Chain(Named):
    names = tuple(f"{what} of call {number}" for number in range(1, MAX_LINKS + 1) for what in ("args", "kwargs"))


_GONE: Final = "the stub was disposed of, or came with a call that has returned; dup() it in time"


class Channel(Protocol):
    """What a capability and a stub need of the connection they belong to."""

    @property
    def base(self) -> Channel:
        """The connection itself, if this is a view of one."""

    def encode(self, value: object) -> bytes:
        """Encode a value, granting the capabilities in it to the other side."""

    def decode(self, payload: bytes) -> tuple[Any, list[Stub]]:
        """Decode a value; the second part are the stubs in it that end with the call, if it is one's arguments."""

    def scan(self, payload: bytes) -> None:
        """Look whether a value that arrived may be read, which its sender is charged for. `decode` does so too."""

    async def call(self, target: int, method: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """Call the other side."""

    def forward(self, target: int, method: str, payload: bytes) -> Awaitable[bytes]:
        """Answer a call of the other side that came inside another one."""

    def let_go(self, target: int | None, unread: tuple[bytes, ...] = ()) -> None:
        """Drop one reference to a capability of the other side, and whatever is in values of its that nobody will read.
        Safe from any thread."""


Link = tuple[str, tuple[object, ...] | Literal[False], dict[str, object] | None]
"""One call of a chain: name, arguments by place and by name, or `READ`."""


class Callee(Protocol):
    """What has remote methods: a chain begins with one of them."""

    def _then(self, link: Link) -> RemoteCall: ...


class Caller(Callee, Protocol):
    """What makes the calls of a chain."""

    def _perform(self, links: list[Link]) -> Coroutine[Any, Any, Any]: ...


S = TypeVar("S", bound="Stub")


class Stub:
    """A remote object. Attribute access gives a method to call, or a property to await; calling the stub itself calls a
    remote function.

    A context manager: at its end the stub is disposed of.
    """

    __slots__ = ("__weakref__", "_attributes", "_channel", "_held", "_share", "_target")

    def __init__(self, channel: Channel, target: int, attributes: Mapping[str, Any]) -> None:
        self._channel = channel
        self._target = target
        self._attributes = attributes
        self._held = True
        self._share: _Share | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._attributes:
            return self._attributes[name]
        return RemoteMethod(self, name)

    def __call__(self, *args: object, **kwargs: object) -> RemoteCall:
        return RemoteCall(self, [("", args, kwargs)])

    def _then(self, link: Link) -> RemoteCall:
        return RemoteCall(self, [link])

    async def _perform(self, links: list[Link]) -> Any:
        self._check()
        channel = self._channel
        if len(links) == 1:
            method, args, kwargs = links[0]
            payload = channel.encode(Named((args, kwargs)))
        else:
            method, arguments = flat(links)
            if len(method) > MAX_NAME:
                raise CodecError(f"the names of a chain have {MAX_NAME} characters at most; await it in between")
            payload = channel.encode(_Chain(arguments))
        return channel.decode(await channel.call(self._target, method, payload))[0]

    def _check(self) -> None:
        if not self._held:
            raise CapabilityError(_GONE)

    def dup(self) -> Self:
        """A second stub for the same object, which outlives the call that this one came with."""
        return self._another(self._shared())

    def dup_as(self, kind: type[S]) -> S:
        """The same, of a class of stubs that goes on in another way."""
        return self._twin(kind, self._shared())

    def _shared(self) -> _Share:
        self._check()
        if self._share is None:
            self._share = _Share()
        return self._share

    def _another(self, share: _Share) -> Self:
        return self._twin(type(self), share)

    def _twin(self, kind: type[S], share: _Share) -> S:
        twin = kind(self._channel, self._target, self._attributes)
        twin._share = share
        share.holders += 1
        return twin

    def dispose(self) -> None:
        """Let the other side forget the object, if this is its last stub. Calls on the stub fail from here on.

        Harmless when repeated.
        """
        if self._held:
            self._held = False
            if self._share is None or self._share.was_last():
                self._forget()

    def _forget(self) -> None:
        self._channel.let_go(self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.dispose()

    def __del__(self) -> None:
        if getattr(self, "_held", False):
            self.dispose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target}{'' if self._held else ' (disposed)'}>"


class _Share:
    """One remote reference that several stubs hold together: the last of them gives it back."""

    __slots__ = ("holders",)

    def __init__(self) -> None:
        self.holders = 1

    def was_last(self) -> bool:
        self.holders -= 1
        return not self.holders


class RemoteMethod:
    """A method of a remote object, or of the result of a call that is yet to be made; or a property, to be awaited."""

    __slots__ = ("_name", "_subject")

    def __init__(self, subject: Callee, name: str) -> None:
        self._subject = subject
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> RemoteCall:
        return self._subject._then((self._name, args, kwargs))

    def __getattr__(self, name: str) -> RemoteMethod:
        if name.startswith("_"):
            raise AttributeError(name)
        return RemoteMethod(self, name)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._subject._then((self._name, *READ)).__await__()

    def _then(self, link: Link) -> RemoteCall:
        return self._subject._then((self._name, *READ))._then(link)

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._subject!r}>"


class RemoteCall:
    """A call that is made when it is awaited, once. Its attributes are those of the result to be: a chain of calls.

    As a coroutine would, it can become a task. `async with` awaits it, and disposes of the result at its end.
    """

    __slots__ = ("_callee", "_links", "_result", "_running")
    cr_await = cr_code = cr_frame = gi_code = gi_frame = None  # what asyncio asks a coroutine for to describe its task
    cr_running = False

    def __init__(self, callee: Caller, links: list[Link]) -> None:
        self._callee = callee
        self._links: list[Link] | None = links

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return RemoteMethod(self, name)

    def __call__(self, *args: object, **kwargs: object) -> RemoteCall:
        return self._then(("", args, kwargs))

    def _then(self, link: Link) -> RemoteCall:
        links = self._take()
        if len(links) >= MAX_LINKS:
            raise CapabilityError(f"a chain has at most {MAX_LINKS} calls; await it in between")
        links.append(link)
        return RemoteCall(self._callee, links)

    def _take(self) -> list[Link]:
        links, self._links = self._links, None
        if links is None:
            raise RuntimeError("the call was awaited before, or is part of a chain; await it once and use its result")
        return links

    def _leave(self) -> None:
        """It will not be made."""
        self._links = None

    def _begin(self) -> Coroutine[Any, Any, Any]:
        return self._callee._perform(self._take())

    def __await__(self) -> Generator[Any, None, Any]:
        return self._begin().__await__()

    def __next__(self) -> Any:
        """What a task does instead of awaiting it."""
        if not hasattr(self, "_running"):
            self._running = self._begin()
        return self._running.send(None)

    def throw(self, *error: Any) -> Any:
        """The same when the task is cancelled."""
        if not hasattr(self, "_running"):
            self._running = self._begin()
        return self._running.throw(*error)

    async def __aenter__(self) -> Any:
        self._result = await self
        return self._result

    async def __aexit__(self, *exc: object) -> None:
        dispose(self._result)

    def __del__(self) -> None:
        if self._links is not None:
            warnings.warn(f"{self!r} was never awaited, so it was not made", RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"<call of {flat(self._links or ())[0] or 'a function'}>"


Coroutine.register(RemoteCall)


def flat(links: Sequence[Link]) -> tuple[str, list[Any]]:
    """A chain as it is sent: the names with dots between, and for each call its arguments as two values, or None."""
    arguments: list[Any] = []
    for _, args, kwargs in links:
        arguments += READ if args is False else (args or None, kwargs or None)
    return ".".join([link[0] for link in links]), arguments


def dispose(value: Any) -> None:
    """Dispose of a stub, or of every stub in lists and maps that were received."""
    match value:
        case Stub():
            value.dispose()
        case dict():
            dispose(list(value.values()))
        case list():
            for item in value:
                dispose(item)
