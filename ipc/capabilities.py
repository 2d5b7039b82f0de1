"""Capabilities: what one side grants to the other, as numbers in a table that belongs to one connection.

A guest can name only numbers that were granted on its own connection, and a number is never used twice, so a forged or
stale one is an error and nothing else. Functions and `RpcTarget`s that are sent in either direction become stubs. The
module knows how a call on a capability is written; it refuses to know who calls, or over what.

Lifetimes follow https://developers.cloudflare.com/workers/runtime-apis/rpc/lifecycle/: a stub received as a parameter
is let go when the call returns, unless `dup()` made a longer-lived one; a stub received as a result lives until it is
disposed of or collected.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, Self, runtime_checkable

from . import values
from .codec import MAX_NUMBER
from .errors import CapabilityError, CodecError, PayloadError, RemoteProtocolError

MAX_GRANTS: Final = 65_536
_MINE, _YOURS = 0, 1


@runtime_checkable
class Capability(Protocol):
    """What stands behind a number: it answers encoded calls with encoded results."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Plain values that the holder of a stub can read without asking."""

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """Answer one call. Whatever it raises is told to the caller."""


class Channel(Protocol):
    """What a capability and a stub need of the connection they belong to."""

    def encode(self, value: object) -> bytes:
        """Encode a value, granting the capabilities in it to the other side."""

    def decode(self, payload: bytes) -> tuple[Any, list[Stub]]:
        """Decode a value; the second part are the stubs that came with it."""

    async def call(self, target: int, method: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """Call the other side."""

    async def forward(self, target: int, method: str, payload: bytes) -> bytes:
        """Answer a call of the other side that came inside another one."""

    def let_go(self, target: int) -> None:
        """Drop one reference to a capability of the other side. Safe from any thread."""


class RpcTarget:
    """Base class of objects that may be called from the other side: their public methods, and nothing else.

    A method is public if its name does not begin with an underscore and it is defined by a class, not set on the
    object. It may be a coroutine function. `rpc_attributes()` may name plain values that the holder of a stub reads
    without a call.
    """

    def rpc_attributes(self) -> Mapping[str, Any]:
        """Plain values that travel with the stub, such as an id."""
        return {}


class Stub:
    """A remote object. Attribute access gives a method to await; calling the stub itself calls a remote function."""

    __slots__ = ("__weakref__", "_attributes", "_channel", "_held", "_target")

    def __init__(self, channel: Channel, target: int, attributes: Mapping[str, Any]) -> None:
        self._channel = channel
        self._target = target
        self._attributes = attributes
        self._held = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._attributes:
            return self._attributes[name]
        return RemoteMethod(self, name)

    def __call__(self, *args: object, **kwargs: object) -> Awaitable[Any]:
        return invoke(self, "", args, kwargs)

    def __aiter__(self) -> Self:
        """A remote object that has a `next()`, which gives `{done, value}`, can be iterated over."""
        return self

    async def __anext__(self) -> Any:
        answer = await invoke(self, "next", (), {})
        if not isinstance(answer, Mapping) or answer.get("done", True):
            raise StopAsyncIteration
        return answer.get("value")

    def dup(self) -> Stub:
        """A second stub for the same object, which outlives the call that this one came with."""
        if not self._held:
            raise CapabilityError("the stub was disposed of, or came with a call that has returned; dup() it in time")
        return Borrowed(self)

    def dispose(self) -> None:
        """Let the other side forget the object. Calls on the stub fail from here on. Harmless when repeated."""
        if self._held:
            self._held = False
            self._channel.let_go(self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.dispose()

    def __del__(self) -> None:
        if getattr(self, "_held", False):
            self.dispose()

    def __repr__(self) -> str:
        return f"<Stub {self._target}{'' if self._held else ' (disposed)'}>"


class Borrowed(Stub):
    """A duplicate: it shares the one reference that the original holds, and the last of them gives it back."""

    __slots__ = ("_share",)
    _share: _Share

    def __init__(self, original: Stub) -> None:
        share = original._share if isinstance(original, Borrowed) else _Share(original)
        share.holders += 1
        super().__init__(original._channel, original._target, original._attributes)
        self._share = share

    def dispose(self) -> None:
        """Let go of this duplicate; the object is forgotten when the last one is."""
        if self._held:
            self._held = False
            self._share.drop()


class _Share:
    """One remote reference, taken over from the stub it came with and counted here."""

    def __init__(self, original: Stub) -> None:
        self.channel, self.target, self.holders = original._channel, original._target, 0
        original._held = False

    def drop(self) -> None:
        self.holders -= 1
        if not self.holders:
            self.channel.let_go(self.target)


class RemoteMethod:
    """A method of a remote object, to be called and awaited."""

    __slots__ = ("_name", "_stub")

    def __init__(self, stub: Stub, name: str) -> None:
        self._stub = stub
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> Awaitable[Any]:
        return invoke(self._stub, self._name, args, kwargs)

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._stub!r}>"


async def invoke(stub: Stub, method: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
    """Call a method of a remote object with plain values and capabilities, and give back its result."""
    if not stub._held:
        raise CapabilityError("the stub was disposed of, or came with a call that has returned; dup() it in time")
    channel = stub._channel
    result, _ = channel.decode(await channel.call(stub._target, method, channel.encode([args, kwargs])))
    return result


class Served:
    """An `RpcTarget`, a function or a stub of another connection, as a `Capability`."""

    __slots__ = ("_find", "attributes", "subject")

    def __init__(
        self, subject: object, find: Callable[[str], Callable[..., Any]], attributes: Mapping[str, Any]
    ) -> None:
        self.subject = subject
        self._find = find
        self.attributes = attributes

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """Find the method, call it with what was sent, and send what it returns."""
        function = self._find(method)
        arguments, stubs = channel.decode(payload)
        match arguments:
            case [list(args), dict(kwargs)]:
                pass
            case _:
                raise PayloadError("a call carries a list of arguments and a map of named ones")
        try:
            result = function(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
            try:
                return channel.encode(result)
            except CodecError as error:  # it is not the caller who is to blame
                raise CodecError(f"what {method or 'it'!r} returned cannot be sent: {error}") from error
        finally:
            for stub in stubs:
                stub.dispose()


def serve(subject: object) -> Capability | None:
    """The capability that an object becomes when it is sent; None if it is not one."""
    match subject:
        case RpcTarget():
            return Served(subject, lambda name: _public_method(subject, name), subject.rpc_attributes())
        case Stub():
            return Served(subject, lambda name: _remote_method(subject, name), subject._attributes)
        case Capability():
            return subject
        case _ if inspect.isroutine(subject):
            return Served(subject, lambda name: _function(subject, name), {})
    return None


def _public_method(target: RpcTarget, name: str) -> Callable[..., Any]:
    hidden = name.startswith("_") or hasattr(RpcTarget, name)
    method = None if hidden else next((vars(kind)[name] for kind in type(target).__mro__ if name in vars(kind)), None)
    if not inspect.isroutine(method):
        raise CapabilityError(f"{type(target).__name__} has no method {name!r} that may be called from outside")
    return getattr(target, name)  # type: ignore[no-any-return]


def _remote_method(stub: Stub, name: str) -> Callable[..., Any]:
    """A stub that is passed on gives access to the object behind it, and to nothing of its own."""
    if name.startswith("_"):
        raise CapabilityError(f"no method {name!r} may be called from outside")
    return RemoteMethod(stub, name) if name else stub


def _function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    if name:
        raise CapabilityError(f"a function has no method {name!r}")
    return function


class Exports:
    """What this side has granted on one connection."""

    def __init__(self) -> None:
        self._granted: dict[int, list[Any]] = {}  # number: [capability, references held over there, key in _numbers]
        self._numbers: dict[int, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._granted)

    def grant(self, capability: Capability) -> int:
        """The number of a capability; the same object has one number while it is held."""
        subject = getattr(capability, "subject", capability)
        number = self._numbers.get(id(subject))
        if number is None:
            if len(self._granted) >= MAX_GRANTS:
                raise CodecError(f"{MAX_GRANTS:,} capabilities are granted on this connection; dispose of some")
            number = self._next
            self._next += 1
            self._numbers[id(subject)] = number
            self._granted[number] = [capability, 0, id(subject)]
        self._granted[number][1] += 1
        return number

    def get(self, number: int) -> Capability:
        """The capability of a number. `CapabilityError` if it is not granted on this connection."""
        entry = self._granted.get(number)
        if entry is None:
            raise CapabilityError(f"capability {number} is not granted on this connection")
        return entry[0]  # type: ignore[no-any-return]

    def release(self, number: int, count: int) -> None:
        """The other side let go. `RemoteProtocolError` if it did not hold that many."""
        entry = self._granted.get(number)
        if entry is None or entry[1] < count:
            raise RemoteProtocolError(f"a release of capability {number}, which is not held that often")
        entry[1] -= count
        if not entry[1]:
            del self._granted[number], self._numbers[entry[2]]

    def clear(self) -> None:
        """The connection is over: nothing is granted any longer."""
        self._granted.clear()
        self._numbers.clear()


def refer(subject: object, channel: Channel, exports: Exports, granted: list[int]) -> bytes | None:
    """The reference that is sent in place of an object; None if the object cannot be sent.

    A number that is granted for it is added to `granted`.
    """
    if isinstance(subject, Stub) and subject._channel is channel:
        return values.dumps([_YOURS, subject._target])
    capability = serve(subject)
    if capability is None:
        return None
    attributes = dict(capability.attributes)
    granted.append(exports.grant(capability))
    return values.dumps([_MINE, granted[-1], attributes])


def resolve(reference: bytes, channel: Channel, exports: Exports) -> object:
    """What a reference that was received stands for: a new stub, or an object of this side that came home.

    The reference was checked with the value that it stood in, if its sender is not trusted.
    """
    match values.loads(reference, trusted=True):
        case [_, int(number), *_] if type(number) is not int or not 0 <= number < MAX_NUMBER:
            pass
        case [0, int(number), dict(attributes)]:
            return Stub(channel, number, attributes)
        case [1, int(number)]:
            capability = exports.get(number)
            return getattr(capability, "subject", capability)
    raise PayloadError("a capability reference of an unknown form")
