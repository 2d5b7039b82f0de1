"""What a tenant calls on objects that the host granted it: a table of methods, under Cloudflare's names or Python's.

A method gets its arguments still encoded, and reads of them what it must: params, payloads and outputs of a tenant pass
through as the bytes they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from cloister.engine import Encoded
from cloister.ipc import CapabilityError, PayloadError, values
from cloister.ipc.capabilities import follow
from cloister.ipc.stubs import Channel, dispose

Parts = list[bytes]
NONE: Final = values.dumps(None)


class Answering:
    """Answers calls of a guest by a table of methods, each of which gets its options still encoded."""

    _methods: Mapping[str, Callable[..., Awaitable[Any]]] = {}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What a stub knows without asking."""
        return {}

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """One call from a sandbox."""
        if "." in method:
            links, stubs = channel.decode(payload)
            dispose(stubs)
            return channel.encode(await follow(self, method, links))
        channel.scan(payload)  # before anything is taken apart: a list of millions costs its sender nothing
        result = await self._call(method, payload)
        return result.data if isinstance(result, Encoded) else channel.encode(result)

    async def invoke(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """One call of a chain, whose arguments have been read."""
        result = await self._call(name, values.dumps([args, kwargs]))
        return values.loads(result.data) if isinstance(result, Encoded) else result

    async def _call(self, method: str, payload: bytes) -> Any:
        function = self._methods.get(method)
        if function is None:
            raise CapabilityError(f"a workflow binding has no method {method!r}; it has {', '.join(self._methods)}")
        match values.split(payload):
            case [args, kwargs]:
                positional, named = values.split(args), values.split(kwargs)
            case _:
                raise PayloadError("a call carries a list of arguments and a map of named ones")
        if not isinstance(positional, list) or not isinstance(named, dict):
            raise PayloadError("a call carries a list of arguments and a map of named ones")
        return await function(self, positional, named)


def read_options(parts: Sequence[bytes], *, opaque: str = "params") -> dict[str, Any]:
    """Encoded maps of options as one, all read but the tenant's own value, which is only checked for its form."""
    found: dict[str, Any] = {}
    for part in parts:
        if part == NONE:
            continue
        try:
            options = values.split(part)
        except PayloadError as error:
            raise TypeError(f"options are a dict: {error}") from error
        if not isinstance(options, dict):
            raise TypeError("options are a dict")
        for name, value in options.items():
            if name == opaque:
                values.scan(value)
                found[name] = Encoded(value)
            else:
                found[name] = values.loads(value)
    return found


def only(args: list[bytes], named: Mapping[str, bytes], name: str) -> Any:
    if len(args) + len(named) != 1 or (named and name not in named):
        raise TypeError(f"one argument is expected: {name}")
    return values.loads(args[0] if args else named[name])
