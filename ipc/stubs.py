"""Stubs: remote objects as something to call, and how long they are held.

Lifetimes follow https://developers.cloudflare.com/workers/runtime-apis/rpc/lifecycle/: a stub received as a parameter
is let go when the call returns, unless `dup()` made a longer-lived one; a stub received as a result lives until it is
disposed of or collected. The module refuses to know what is behind a stub.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol, Self

from .errors import CapabilityError


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
