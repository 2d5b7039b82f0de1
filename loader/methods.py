"""What every entrypoint of a tenant's is to whoever holds it, wherever the tenant lives: attributes are its methods.

How a call comes there is for whoever derives from this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

from cloister.ipc import Capability, CapabilityError
from cloister.ipc.capabilities import Served
from cloister.ipc.stubs import Link, RemoteCall, RemoteMethod
from cloister.sandbox import Limits

from .http.bodies import Sent
from .http.messages import Request, Response

CodePolicy = Literal["pinned", "latest", "migrate"]
_POLICIES: Final[tuple[str, ...]] = get_args(CodePolicy)
Event = Literal["queue", "tail", "scheduled", "email", "test"]


class Methods(ABC):
    """Calls on what a method returns go along with it."""

    def __getattr__(self, method: str) -> RemoteMethod:
        if method.startswith("_"):
            raise AttributeError(f"{method!r} is not a public name; only public methods can be called from outside")

        return RemoteMethod(self, method)

    def __capability__(self) -> Capability:
        """What it becomes where it is granted to another tenant, as a binding: its methods, and nothing else."""
        return Served(self, self._public, {})

    def _public(self, name: str) -> Callable[..., Any]:
        if not name or name.startswith("_"):
            raise CapabilityError(f"no method {name!r} may be called from outside")
        special: dict[str, Callable[..., Any]] = {"fetch": self._fetched, "scheduled": self._scheduled}
        return special.get(name) or RemoteMethod(self, name)

    async def _fetched(self, resource: object, options: object = None, /, **more: object) -> Sent:
        given = {**(options if isinstance(options, dict) else {}), **more}
        return (await self.fetch(Request.received(resource, given))).sent()

    async def _scheduled(self, options: object = None, **more: object) -> Any:
        given = {**(options if isinstance(options, dict) else {}), **more}
        return await self.handle("scheduled", {name: given.get(name) for name in ("cron", "scheduledTime")})

    def _then(self, link: Link) -> RemoteCall:
        return RemoteCall(self, [link])

    @abstractmethod
    async def _perform(self, links: list[Link]) -> Any: ...

    @abstractmethod
    async def fetch(self, request: Request | str, /, **options: Any) -> Response:
        """Have a request answered."""

    @abstractmethod
    async def handle(self, event: Event, subject: Any) -> Any:
        """Hand it an event."""


def check_entrypoint(name: object, limits: object, code: object) -> None:
    """What an entrypoint is asked for with. `TypeError`, `ValueError`."""
    if code not in _POLICIES:
        raise ValueError(f"code is one of {', '.join(_POLICIES)}, not {code!r:.40}")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"an entrypoint has a name, or None for the default one, not {name!r:.40}")
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits are Limits(...), not {type(limits).__name__}")


def asked(request: Request | str, options: dict[str, Any]) -> Request:
    """The arguments of `fetch` as a request. `Malformed`, `TypeError`."""
    if not isinstance(request, Request):
        return Request(request, **options)
    if options:
        raise TypeError(f"a Request has its options in it: {', '.join(options)} cannot be given beside it")
    return request
