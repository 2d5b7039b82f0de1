"""A tenant's entrypoints as the front has them: each call goes to the shard, and from there into the sandbox."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from cloister.ipc.stubs import Link, RemoteCall, RemoteMethod
from cloister.sandbox import Limits

from ..entrypoint import CodePolicy
from ..http.messages import Request, Response
from .keeper import Keeper


class ShardWorker:
    """See `WorkerStub`."""

    def __init__(self, keeper: Keeper, tenant_id: str) -> None:
        self._keeper = keeper
        self.tenant_id = tenant_id

    def get_entrypoint(
        self, name: str | None = None, *, props: Any = None, limits: Limits | None = None, code: CodePolicy = "pinned"
    ) -> ShardEntrypoint:
        """See `WorkerStub.get_entrypoint`."""
        bounds = None if limits is None else dataclasses.asdict(limits)
        return ShardEntrypoint(self._keeper, self.tenant_id, (name, props, bounds, code))

    def __repr__(self) -> str:
        return f"<ShardWorker {self.tenant_id!r}>"


class ShardEntrypoint:
    """See `Entrypoint`: attribute access is a method of the tenant's, and what it raises is what that raises."""

    def __init__(self, keeper: Keeper, tenant_id: str, which: tuple[Any, ...]) -> None:
        self._keeper, self._tenant_id, self._which = keeper, tenant_id, which

    def __getattr__(self, method: str) -> RemoteMethod:
        if method.startswith("_"):
            raise AttributeError(f"{method!r} is not a public name; only public methods can be called from outside")
        return RemoteMethod(self, method)

    def _then(self, link: Link) -> RemoteCall:
        return RemoteCall(self, [link])

    async def _perform(self, links: list[Link]) -> Any:
        return await self._ask("call", links)

    async def fetch(self, request: Request | str, /, **options: Any) -> Response:
        """See `Entrypoint.fetch`."""
        if isinstance(request, Request) and options:
            raise TypeError(f"a Request has its options in it: {', '.join(options)} cannot be given beside it")
        asked = request if isinstance(request, Request) else Request(request, **options)
        return Response.received(await self._ask("fetch", asked.sent()))

    async def handle(self, event: Literal["queue", "tail", "scheduled", "email", "test"], subject: Any) -> Any:
        """See `Entrypoint.handle`."""
        return await self._ask("handle", event, subject)

    async def _ask(self, method: str, *args: Any) -> Any:
        return await self._keeper.ask(method, self._tenant_id, self._which, *args)

    def __repr__(self) -> str:
        return f"<ShardEntrypoint {self._which[0] or 'Default'} of {self._tenant_id!r}>"
