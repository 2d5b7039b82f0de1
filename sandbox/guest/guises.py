"""What stands for an error that is sent as a value, and for a function that came back to the program it is of.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from cloister.ipc.capabilities import Capability, RpcTarget, serve
from cloister.ipc.errors import CapabilityError, RemoteError
from cloister.ipc.stubs import Channel, Stub

from . import failure
from .worker import result


class Told(RpcTarget):
    """An error on its way, of which the other side is told its class and what it says."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def rpc_attributes(self) -> Mapping[str, Any]:
        """All there is to know."""
        error = self._error
        name, message = type(error).__name__, failure.text(error)
        if isinstance(error, RemoteError):
            name, message = error.name, error.message
        return {"workers.class": "Error", "name": name, "message": message}

    def rpc_returned(self, attributes: Mapping[str, Any]) -> Any:
        """The error itself."""
        return self._error


def received(attributes: Mapping[str, Any], stub: Stub) -> Exception:
    """An error that another side has told of, of its class where Python has one of that name."""
    stub.dispose()
    return failure.rebuild(str(attributes["name"]), str(attributes["message"]))


class Copied:
    """Something of which all there is to know is sent along."""

    def __init__(self, kind: str, **known: Any) -> None:
        self.attributes = {"workers.class": kind, **known}

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """`CapabilityError`: there is nothing to ask."""
        raise CapabilityError(f"{self.attributes['workers.class']} has no method {method!r:.40}")


class Home:
    """A function of this program's that was elsewhere. Calling it is awaited, as if it were of another's."""

    __module__ = "workers"

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __eq__(self, other: object) -> bool:
        return self._function == (other._function if isinstance(other, Home) else other)

    def __hash__(self) -> int:
        return hash(self._function)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await result(self._function, *args, **kwargs)

    def __capability__(self) -> Capability | None:
        """What the function is."""
        return serve(self._function)

    def dup(self) -> Self:
        """The same: nobody lets go of it."""
        return self

    def dispose(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None
