"""What was granted can be taken back: a grant stands between an object and whoever calls it, until it is revoked.

Nothing passes through a revoked grant in either direction, and that holds for everything that was obtained through it:
an object that came back from a call ends with the grant that led to it. The module knows neither tenant nor wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Self

from .capabilities import Capability, Served, respond, serve
from .errors import CapabilityError
from .streams import Outlet
from .stubs import Channel, Stub

_PLAIN: Final = str | bytes | bytearray | memoryview | int | float | None | dict | list | tuple | set | frozenset


def revocable(subject: object) -> Grant:
    """Grant this in place of an object, a function, a stub or a stream: the same, until `revoke()` takes it back.

    `with revocable(thing) as grant:` takes it back at the end of the block.

    An object that is passed back to the host comes home as itself: a function of the host's that gives out what it was
    given gives it without the grant.
    """
    return Grant(subject)


def expiring(subject: object, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> Grant:
    """The same, and it ends by itself when so many seconds have passed from now."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"a capability expires after a number of seconds above zero, not {seconds!r}")
    return Grant(subject, seconds, clock)


class Grant:
    """From `revocable` or `expiring`. May be granted to any number of tenants, which all lose it at once."""

    def __init__(self, subject: object, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        if isinstance(subject, _PLAIN):
            raise TypeError(f"{type(subject).__name__} is copied when it is sent, and cannot be taken back")
        self.subject = subject
        self._seconds = seconds
        self._clock = clock
        self._ends = clock() + seconds
        self._refusal = ""
        self._streams: dict[Outlet, asyncio.TimerHandle | None] = {}

    @property
    def revoked(self) -> bool:
        """Whether it was revoked, or has expired."""
        return bool(self._refusal) or self._clock() >= self._ends

    def revoke(self, reason: str = "") -> None:
        """Take it back, now: calls fail with a `CapabilityError` that says so, those under way when they return, and
        streams end. Harmless when repeated."""
        self._end(f"the capability was revoked: {reason}" if reason else "the capability was revoked")

    def check(self) -> None:
        """`CapabilityError` if it was taken back."""
        if self._clock() >= self._ends:
            self._end(f"the capability expired {self._seconds:g} s after it was granted")
        if self._refusal:
            raise CapabilityError(self._refusal)

    def cover(self, value: Any) -> Any:
        """The same value; what can be called in it ends with this grant."""
        match value:
            case dict():
                return {key: self.cover(item) for key, item in value.items()}
            case list() | tuple():
                return [self.cover(item) for item in value]
            case str() | bytes() | int() | float() | None:
                return value
        inner = serve(value)
        return value if inner is None else _Covered(self, inner)

    def watch(self, stream: Outlet) -> None:
        """A stream is read through this."""
        late = None
        if self._ends < math.inf:
            late = asyncio.get_running_loop().call_later(max(self._ends - self._clock(), 0), self._late)
        self._streams[stream] = late

    def forget(self, stream: Outlet) -> None:
        """It is not read any longer."""
        if (late := self._streams.pop(stream, None)) is not None:
            late.cancel()

    def _late(self) -> None:
        with contextlib.suppress(CapabilityError):
            self.check()

    def _end(self, words: str) -> None:
        self._refusal = self._refusal or words
        for stream in list(self._streams):
            self.forget(stream)
            stream.fail(CapabilityError(self._refusal))

    def __capability__(self) -> Capability | None:
        """What is granted."""
        inner = serve(self.subject)
        return None if inner is None else Guarded(self, inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.revoke()

    def __repr__(self) -> str:
        return f"<Grant of {self.subject!r}{' (revoked)' if self.revoked else ''}>"


class Guarded:
    """A capability behind a grant."""

    def __init__(self, grant: Grant, inner: Capability) -> None:
        self.key: Hashable = (id(grant), getattr(inner, "key", id(inner)))
        self.streams = isinstance(inner, Outlet)
        self.attributes: Mapping[str, Any] = inner.attributes
        self._grant, self._inner = grant, inner

    @property
    def inner(self) -> Capability:
        """What it stands before."""
        return self._inner

    @property
    def subject(self) -> Any:
        """What comes home, if it may."""
        self._grant.check()
        return getattr(self._inner, "subject", self._inner)

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """One call, if it may be made; and its answer, if that may still be told."""
        self._grant.check()
        behind = _Behind(self._grant, channel)
        if "." in method and hasattr(self._inner, "invoke"):
            return await respond(self, method, payload, behind)  # it may be taken back between two calls of a chain
        return await self._inner.answer(method, payload, behind)

    async def invoke(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """One call of a chain."""
        return await self._through("invoke", name, args, kwargs)

    async def read(self, name: str) -> Any:
        """A property, in a chain."""
        return await self._through("read", name)

    async def _through(self, what: str, name: str, *arguments: Any) -> Any:
        self._grant.check()
        do = getattr(self._inner, what, None)
        if do is None:
            raise CapabilityError(f"there is no {name!r} to {what} of what the chain has led to")
        result = do(name, *arguments)
        if inspect.isawaitable(result):
            result = await result
        self._grant.check()
        return self._grant.cover(result)

    def granted(self) -> None:
        """One more connection holds it."""
        if isinstance(self._inner, Outlet):
            self._grant.watch(self._inner)
        _tell(self._inner, "granted")

    def dropped(self) -> None:
        """One connection holds it no longer."""
        if isinstance(self._inner, Outlet):
            self._grant.forget(self._inner)
        _tell(self._inner, "dropped")


class _Covered:
    """What was obtained through a grant, on its way."""

    def __init__(self, grant: Grant, inner: Capability) -> None:
        self._grant, self._inner = grant, inner

    def __capability__(self) -> Capability:
        return Guarded(self._grant, self._inner)

    def __covers__(self) -> object:
        """The object, which hears of the end of a chain that has come by."""
        inner = self._inner
        while isinstance(inner, Guarded):
            inner = inner.inner
        return inner.subject if isinstance(inner, Served) else None


class _Behind:
    """The connection as a guarded capability sees it: what it sends is covered."""

    def __init__(self, grant: Grant, channel: Channel) -> None:
        self._grant, self._channel = grant, channel

    def encode(self, value: object) -> bytes:
        """See `Channel.encode`."""
        self._grant.check()
        return self._channel.encode(self._grant.cover(value))

    def decode(self, payload: bytes) -> tuple[Any, list[Stub]]:
        """See `Channel.decode`."""
        value, stubs = self._channel.decode(payload)
        for stub in stubs:  # what it is given in turn has been obtained through the grant as well
            stub._channel = self
        return value, stubs

    @property
    def base(self) -> Channel:
        """See `Channel.base`."""
        return self._channel.base

    def scan(self, payload: bytes) -> None:
        """See `Channel.scan`."""
        self._channel.scan(payload)

    async def call(self, target: int, method: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """See `Channel.call`."""
        return await self._channel.call(target, method, payload, timeout=timeout)

    def forward(self, target: int, method: str, payload: bytes) -> Awaitable[bytes]:
        """See `Channel.forward`."""
        return self._channel.forward(target, method, payload)

    def let_go(self, target: int | None, unread: tuple[bytes, ...] = ()) -> None:
        """See `Channel.let_go`."""
        self._channel.let_go(target, unread)


def _tell(capability: Capability, what: str) -> None:
    if (function := getattr(capability, what, None)) is not None:
        function()
