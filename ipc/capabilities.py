"""Capabilities: which objects may be called from the other side of a connection, and how that is done.

Functions and `RpcTarget`s that are sent in either direction become stubs. The module knows how a call on a capability
is written; it refuses to know who calls, or over what.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from .errors import CapabilityError, CodecError, PayloadError
from .stubs import Channel, RemoteMethod, Stub


@runtime_checkable
class Capability(Protocol):
    """What stands behind a number: it answers encoded calls with encoded results."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Plain values that the holder of a stub can read without asking."""

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """Answer one call. Whatever it raises is told to the caller."""


class RpcTarget:
    """Base class of objects that may be called from the other side: their public methods, and nothing else.

    A method is public if its name does not begin with an underscore and it is defined by a class, not set on the
    object. It may be a coroutine function. `rpc_attributes()` may name plain values that the holder of a stub reads
    without a call.
    """

    def rpc_attributes(self) -> Mapping[str, Any]:
        """Plain values that travel with the stub, such as an id."""
        return {}


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
