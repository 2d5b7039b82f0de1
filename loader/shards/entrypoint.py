"""A tenant's entrypoints as the front has them: each call goes to the shard, and from there into the sandbox."""

from __future__ import annotations

import dataclasses
from typing import Any

from cloister.ipc.stubs import Link, flat
from cloister.ipc.values import Named
from cloister.sandbox import Limits

from ..http.messages import Request, Response
from ..methods import CodePolicy, Event, Methods, asked, check_entrypoint
from .keeper import Keeper


class _Arguments(Named):
    names = ("args", "kwargs", "chain")


class ShardWorker:
    """See `WorkerStub`."""

    def __init__(self, keeper: Keeper, tenant_id: str) -> None:
        self._keeper = keeper
        self.tenant_id = tenant_id

    def get_entrypoint(
        self, name: str | None = None, *, props: Any = None, limits: Limits | None = None, code: CodePolicy = "pinned"
    ) -> ShardEntrypoint:
        """See `WorkerStub.get_entrypoint`."""
        check_entrypoint(name, limits, code)
        bounds = None if limits is None else dataclasses.asdict(limits)
        return ShardEntrypoint(self._keeper, self.tenant_id, (name, props, bounds, code))

    def __repr__(self) -> str:
        return f"<ShardWorker {self.tenant_id!r}>"


class ShardEntrypoint(Methods):
    """See `Entrypoint`: attribute access is a method of the tenant's, and what it raises is what that raises."""

    def __init__(self, keeper: Keeper, tenant_id: str, which: tuple[Any, ...]) -> None:
        self._keeper, self._tenant_id, self._which = keeper, tenant_id, which

    async def _perform(self, links: list[Link]) -> Any:
        names, arguments = [link[0] for link in links], _Arguments(links[0][1:])
        if len(links) > 1:
            arguments.append(flat(links)[1][2:])
        return await self._ask("call", names, arguments)

    async def fetch(self, request: Request | str, /, **options: Any) -> Response:
        """See `Entrypoint.fetch`."""
        sent, wall_s = await self._ask("fetch", asked(request, options).sent())
        response = Response.received(sent)
        if response.web_socket is not None:
            response.web_socket.wall_s = wall_s
        return response

    async def handle(self, event: Event, subject: Any) -> Any:
        """See `Entrypoint.handle`."""
        return await self._ask("handle", event, subject)

    async def _ask(self, method: str, *args: Any) -> Any:
        return await self._keeper.ask(method, self._tenant_id, self._which, *args)

    def __repr__(self) -> str:
        return f"<ShardEntrypoint {self._which[0] or 'Default'} of {self._tenant_id!r}>"
