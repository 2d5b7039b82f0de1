"""Capabilities: which objects may be called from the other side of a connection, and how that is done.

Functions, generators and `RpcTarget`s that are sent in either direction become stubs. The module knows how a call on a
capability is written, and a chain of calls; it refuses to know who calls, or over what.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Protocol, Self, runtime_checkable

from .errors import CapabilityError, CodecError, PayloadError
from .stubs import MAX_LINKS, READ, Channel, RemoteCall, RemoteMethod, Stub

_log = logging.getLogger("cloister.ipc")
MAX_NOTES: Final = 16
"""Notes that an exception is given, or sent with."""


@runtime_checkable
class Capability(Protocol):
    """What stands behind a number: it answers encoded calls with encoded results.

    It may also have `subject`, the object that it makes callable; `key`, by which two of the same are known to be; and
    `dropped()`, which is called when nobody over there holds it any longer, or the connection ends; and `pledge()`,
    which takes what `answer` does and gives an `Answer` that will be settled, with nobody's task waiting meanwhile. If
    it gives None, or raises, nothing has happened, and `answer` is asked. Nobody counts what was pledged.
    """

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Plain values that the holder of a stub can read without asking."""

    def answer(self, method: str, payload: bytes, channel: Channel) -> Awaitable[bytes]:
        """Answer one call, or a chain of them: then `method` holds their names with dots between. Whatever it raises is
        told to the caller. What it returns is awaited at once, by one.
        """


class RpcTarget:
    """Base class of objects that may be called from the other side: their public methods and properties, nothing else.

    Either is public if its name does not begin with an underscore and it is defined by a class, not set on the object.
    A method may be a coroutine function, or an asynchronous generator. A `property` is read by awaiting it, and may
    give something to be awaited. `rpc_attributes()` may name plain values that the holder of a stub reads without a
    call; `rpc_disposed()` is called when the last stub of the object is gone.
    """

    def rpc_attributes(self) -> Mapping[str, Any]:
        """Plain values that travel with the stub, such as an id."""
        return {}

    def rpc_returned(self, attributes: Mapping[str, Any]) -> Self:
        """What comes back to this side when a stub of it does: itself, unless it lost something by being sent."""
        return self

    def rpc_disposed(self) -> None:
        """The last stub was disposed of, or what held it is gone. What this raises is logged, and told to nobody."""


class Served:
    """An `RpcTarget`, a function or a stub of another connection, as a `Capability`."""

    __slots__ = ("_find", "attributes", "key", "subject")

    def __init__(
        self,
        subject: object,
        find: Callable[[str], Callable[..., Any]],
        attributes: Mapping[str, Any],
        key: Hashable = None,
    ) -> None:
        self.subject = subject
        self.key = key or id(subject)
        self._find = find
        self.attributes = attributes

    def answer(self, method: str, payload: bytes, channel: Channel) -> Awaitable[bytes]:
        """Call the method with what was sent, and send what it returns."""
        return respond(self, method, payload, channel)

    def invoke(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Find the method and call it. The result may have to be awaited."""
        return self._find(name)(*args, **kwargs)

    def read(self, name: str) -> Any:
        """A property, likewise."""
        subject: Any = self.subject
        if isinstance(subject, RpcTarget):
            return public_property(subject, name)
        if not hasattr(type(subject), "_then") or name.startswith("_"):
            raise CapabilityError(f"{name!r} cannot be read of a {type(subject).__name__}")
        return subject._then((name, *READ))

    def granted(self) -> None:
        """One more connection holds it."""
        if isinstance(self.subject, RpcTarget):
            _hold(self.subject)

    def dropped(self) -> None:
        """One connection holds it no longer."""
        if isinstance(self.subject, RpcTarget):
            _let_go(self.subject)


async def respond(capability: Any, method: str, payload: bytes, channel: Channel) -> bytes:
    """Answer a call, or a chain of them, of what can be invoked."""
    arguments, stubs = channel.decode(payload)
    del payload  # of which there is a second copy now
    result = None
    try:
        if "." in method or arguments == _READ:
            result = await follow(capability, method, arguments)
        else:
            result = capability.invoke(method, *spread(arguments))
            if inspect.isawaitable(result):
                result = await result
        try:
            return channel.encode(result)
        except CodecError as error:  # it is not the caller who is to blame
            raise CodecError(f"what {method or 'it'!r} returned cannot be sent: {error}") from error
    finally:
        end(stubs, result)


def serve(subject: object) -> Capability | None:
    """The capability that an object becomes when it is sent; None if it is not one."""
    match subject:
        case _ if (become := getattr(type(subject), "__capability__", None)) is not None:
            capability: Capability = become(subject)
            return capability
        case RpcTarget():
            return Served(subject, lambda name: public_method(subject, name), subject.rpc_attributes())
        case _ if hasattr(type(subject), "answer") and hasattr(type(subject), "attributes"):
            return subject  # type: ignore[return-value]  # as the last case would, which takes long to tell
        case _ if inspect.isroutine(subject):
            return Served(subject, lambda name: _function(subject, name), {})
        case _ if hasattr(type(subject), "__aiter__") or inspect.isgenerator(subject):
            from .streams import Outlet

            return subject if isinstance(subject, Outlet) else Outlet(subject)
        case Stub():
            twin = subject.dup()  # whoever gets it may keep it for longer than this side does
            key = id(twin._channel), twin._target
            return Served(twin, lambda name: _remote_method(twin, name), twin._attributes, key)
        case Capability() if not isinstance(subject, RemoteCall | RemoteMethod):
            return subject
    return None


def end(lent: Sequence[Stub], result: Any) -> None:
    """A call has returned, and what came with it ends. A generator has yet to begin: its arguments end when it does."""
    if lent and not inspect.isasyncgen(result) and not inspect.isgenerator(result):
        for stub in lent:
            stub.dispose()


def spread(link: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of one call, as they were sent."""
    match link:
        case [list(args), dict(kwargs)]:
            return args, kwargs
    raise PayloadError(_FORM)


_FORM: Final = "a call carries a list of arguments and a map of named ones"
_READ: Final = [*READ]


async def follow(reached: Any, path: str, arguments: Any, *, begun: int = 0) -> Any:
    """Make the calls of a chain, each on the result of the one before, and give back what the last one returns.

    `reached` is what the first `begun` of the names in `path` have led to. What is raised has a note of the place.
    """
    names = path.split(".")
    if not isinstance(arguments, list) or len(arguments) + 2 * begun != 2 * len(names) or len(names) > MAX_LINKS:
        raise PayloadError(f"a chain carries the arguments of each of its calls, at most {MAX_LINKS}")
    passed: list[RpcTarget] = []
    place = begun
    try:
        for place in range(begun, len(names)):
            at, name = 2 * (place - begun), names[place]
            args, kwargs = arguments[at] or [], arguments[at + 1] or {}
            reads = arguments[at] is False and arguments[at + 1] is None
            if not isinstance(args, list) or not isinstance(kwargs, dict):
                raise PayloadError(_FORM)
            if isinstance(reached, RemoteCall):  # the rest of the chain goes on to whoever has the object
                reached = reached._then((name, *READ) if reads else (name, (*args,), kwargs))
                continue
            if reads:
                reached = _read(reached, name)
            elif isinstance(reached, RpcTarget):
                reached = public_method(reached, name)(*args, **kwargs)
            else:
                reached = _reach(reached, name).invoke(name, args, kwargs)
            if not isinstance(reached, RpcTarget | RemoteCall) and inspect.isawaitable(reached):
                reached = await reached
            if place + 1 < len(names) and (target := _passed(reached)) is not None:
                _hold(target)
                passed.append(target)
        return await reached if isinstance(reached, RemoteCall) else reached
    except Exception as error:
        if isinstance(reached, RemoteCall):  # in whose answer the place is noted, if it was made
            reached._leave()
        elif len(names) > 1:
            _note(error, f"in call {place + 1} of {len(names)}: {path}")
        raise
    finally:
        for target in passed:
            _let_go(target)


def _passed(reached: Any) -> RpcTarget | None:
    """What wants to hear that a chain which has come by is over."""
    if isinstance(reached, RpcTarget):
        return reached if _minds(reached) else None
    target = reached.__covers__() if hasattr(type(reached), "__covers__") else None
    return target if isinstance(target, RpcTarget) and _minds(target) else None


def _reach(result: Any, name: str) -> Any:
    capability = serve(result)  # what could not be sent cannot be called on the way either
    if not hasattr(type(capability), "invoke"):
        raise CapabilityError(f"{name!r} cannot be called on a {type(result).__name__}, which is what came before")
    return capability


def _read(result: Any, name: str) -> Any:
    """A property of an object, or what a map has under a name."""
    if isinstance(result, RpcTarget):
        return public_property(result, name)
    if isinstance(result, dict) and name in result:
        return dict.__getitem__(result, name)
    capability = serve(result)
    if name in (attributes := getattr(capability, "attributes", {})):
        return attributes[name]
    if not hasattr(type(capability), "read"):
        raise AttributeError(f"{name!r} cannot be read of a {type(result).__name__}, which is what came before")
    return capability.read(name)  # type: ignore[union-attr]


def _note(error: Exception, words: str) -> None:
    notes = getattr(error, "__notes__", ())
    if words not in notes and len(notes) < MAX_NOTES:  # one exception may be raised many times
        error.add_note(words)


_holders: dict[int, int] = {}


def _minds(target: RpcTarget) -> bool:
    return type(target).rpc_disposed is not RpcTarget.rpc_disposed


def _hold(target: RpcTarget) -> None:
    if _minds(target):
        _holders[id(target)] = _holders.get(id(target), 0) + 1


def _let_go(target: RpcTarget) -> None:
    if not _minds(target):
        return
    _holders[id(target)] -= 1
    if not _holders[id(target)]:
        del _holders[id(target)]
        try:
            target.rpc_disposed()
        except Exception:  # noqa: BLE001 - nobody is there to be told
            _log.exception("%s.rpc_disposed() raised", type(target).__name__)


def public_method(target: RpcTarget, name: str) -> Callable[..., Any]:
    """A method that the class of an object defines for others. `CapabilityError` if there is none of the name."""
    if not name.startswith("_") and name not in _OWN:
        for kind in type(target).__mro__:
            if (method := kind.__dict__.get(name)) is not None:
                if type(method) is types.FunctionType or inspect.isroutine(method):
                    return getattr(target, name)  # type: ignore[no-any-return]
                break
    raise CapabilityError(f"{type(target).__name__} has no method {name!r} that may be called from outside")


def public_property(target: object, name: str) -> Any:
    """A property that the class of an object defines, or what it names to be read without a call. It may have to be
    awaited."""
    if isinstance(target, RpcTarget) and name in (attributes := target.rpc_attributes()):
        return attributes[name]
    kind = type(target)
    found = next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), None)
    if name.startswith("_") or not isinstance(found, property | functools.cached_property):
        hint = "; it is a method: call it" if inspect.isroutine(found) and not name.startswith("_") else ""
        raise CapabilityError(f"{kind.__name__} has no property {name!r} that may be read from outside{hint}")
    return getattr(target, name)


_OWN: Final = frozenset(vars(RpcTarget))


def _remote_method(stub: Stub, name: str) -> Callable[..., Any]:
    """A stub that is passed on gives access to the object behind it, and to nothing of its own."""
    if name.startswith("_"):
        raise CapabilityError(f"no method {name!r} may be called from outside")
    return RemoteMethod(stub, name) if name else stub


def _function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    if name:
        raise CapabilityError(f"a function has no method {name!r}")
    return function
