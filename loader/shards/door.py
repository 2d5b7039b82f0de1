"""What the front asks of a shard's host: one object, of which each method answers with an outcome.

An outcome is `[True, value]` or `[False, what was raised]`, so that the front raises the same. The front may do all
that a service does with a `Host`: it is the service.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec

from cloister.engine import Encoded, PinnedCode, Schedule
from cloister.ipc import RpcTarget, Stub, values
from cloister.ipc.capabilities import serve
from cloister.ipc.stubs import READ, Channel, Link
from cloister.sandbox import Limits

from ..dispatch import unwrap
from ..entrypoint import Entrypoint
from ..host import Host
from ..http.messages import Request
from ..methods import CodePolicy
from .options import each_unpacked, unpacked
from .told import tell

Given = ParamSpec("Given")
Outcome = list[Any]
Arguments = tuple[Sequence[Any], Mapping[str, Any]]
OF_A_BINDING: Final = frozenset({"delete_batch", "bulk", "remove_schedule"})
"""Methods of a tenant's binding whose arguments and results can be sent as they are."""
OF_AN_INSTANCE: Final = frozenset({
    "status", "result", "pause", "resume", "terminate", "restart", "delete", "step_result", "override", "interventions",
})  # fmt: skip
"""Those of an instance."""
Which = tuple[str | None, Any, Mapping[str, Any] | None, CodePolicy]
"""An entrypoint: name, props, limits and policy, as for `WorkerStub.get_entrypoint`."""


def outcome(
    method: Callable[Concatenate[Door, Given], Awaitable[Any]],
) -> Callable[Concatenate[Door, Given], Awaitable[Outcome]]:
    """A method that tells what it raises."""

    @functools.wraps(method)
    async def told(self: Door, *args: Given.args, **kwargs: Given.kwargs) -> Outcome:
        try:
            return [True, await method(self, *args, **kwargs)]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the front's
            return [False, tell(error)]

    return told  # type: ignore[return-value]  # but for the name of its first argument


class Onward:
    """The front's line for a web socket as a tenant is given it: to speak on that is no subrequest, as with a host."""

    uncounted = True
    attributes: Mapping[str, Any] = {}

    def __init__(self, line: Stub) -> None:
        self._line: Any = serve(line.dup_as(Stub))
        self.subject = line.dup_as(FrontLine)
        """What comes home, from a tenant that only passes the web socket on."""

    def answer(self, method: str, payload: bytes, channel: Channel) -> Awaitable[bytes]:
        """What the tenant says goes on to the front."""
        told: Awaitable[bytes] = self._line.answer(method, payload, channel)
        return told


class FrontLine(Stub):
    """The same, as it is held here: whoever it is given to speaks on it in that way too."""

    __slots__ = ()

    def __capability__(self) -> Onward:
        return Onward(self)


class Door(RpcTarget):
    """The way to one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @outcome
    async def create(self, tenant_id: str, options: Mapping[str, Any]) -> str:
        """The id of what was created."""
        return (await self._host.workflows(tenant_id).create(unpacked(options))).id

    @outcome
    async def create_batch(self, tenant_id: str, entries: Any) -> Any:
        """As of the binding, with ids for instances."""
        made = await self._host.workflows(tenant_id).create_batch(each_unpacked(entries))
        if isinstance(made, dict):
            return {**made, "created": [each.id for each in made["created"]]}
        return [each.id for each in made]

    @outcome
    async def begin_each(self, entries: Sequence[tuple[str, bytes, bytes, Mapping[str, Any]]]) -> Any:
        """As of `Host.begin_each`: tenant, digest and stored form of its code, options."""
        return await self._host.begin_each(
            [
                (tenant_id, PinnedCode(digest, stored), unpacked(options))
                for tenant_id, digest, stored, options in entries
            ]
        )

    @outcome
    async def get(self, tenant_id: str, id: str) -> None:  # noqa: A002
        """Whether there is such an instance."""
        await self._host.workflows(tenant_id).get(id)

    @outcome
    async def list(self, tenant_id: str, filters: Mapping[str, Any]) -> tuple[Any, str | None]:
        """The fields of each summary, and the cursor."""
        page = await self._host.workflows(tenant_id).list(**filters)
        return [_fields(each) for each in page.instances], page.cursor

    @outcome
    async def add_schedule(self, tenant_id: str, fields: Mapping[str, Any]) -> None:
        """Of one more schedule."""
        await self._host.workflows(tenant_id).add_schedule(Schedule(**fields))

    @outcome
    async def schedules(self, tenant_id: str) -> Any:
        """The fields of each, its params without what is around them."""
        found = [dataclasses.asdict(each) for each in await self._host.workflows(tenant_id).schedules()]
        return [{**fields, "params": _inside(fields["params"])} for fields in found]

    @outcome
    async def binding(self, tenant_id: str, method: str, arguments: Arguments) -> Any:
        """What else a binding does."""
        assert method in OF_A_BINDING
        args, kwargs = arguments
        return await getattr(self._host.workflows(tenant_id), method)(*args, **kwargs)

    @outcome
    async def instance(self, tenant_id: str, id: str, method: str, arguments: Arguments) -> Any:  # noqa: A002
        """What an instance does."""
        assert method in OF_AN_INSTANCE
        args, kwargs = arguments
        return await getattr(self._host.workflows(tenant_id).handle(id), method)(*args, **kwargs)

    @outcome
    async def send_event(self, tenant_id: str, id: str, options: Mapping[str, Any]) -> None:  # noqa: A002
        """As of an instance."""
        await self._host.workflows(tenant_id).handle(id).send_event(unpacked(options))

    @outcome
    async def fork(self, tenant_id: str, id: str, options: Mapping[str, Any], step: Any) -> str:  # noqa: A002
        """The id of the new one."""
        return (await self._host.workflows(tenant_id).handle(id).fork(options, from_step=step)).id

    async def subscribe(
        self, tenant_id: str, id: str, cursor: int | None, types: Any  # noqa: A002
    ) -> AsyncIterator[Outcome]:  # fmt: skip
        """Outcomes, each the fields of an event; after one that was raised there is none."""
        try:
            async for event in self._host.workflows(tenant_id).handle(id).subscribe(cursor, types=types):
                yield [True, _fields(event)]
        except Exception as error:  # noqa: BLE001
            yield [False, tell(error)]

    @outcome
    async def call(self, tenant_id: str, which: Which, names: Sequence[str], arguments: Sequence[Any]) -> Any:
        """A call of a tenant's entrypoint, or a chain of them: after the arguments of the first those of the others."""
        args, kwargs, *rest = arguments
        given = [args, kwargs, *(rest[0] if rest else ())]
        links: list[Link] = [
            (name, *READ) if args is False else (name, args or (), kwargs or {})
            for name, args, kwargs in zip(names, given[::2], given[1::2], strict=True)
        ]
        return await self._entrypoint(tenant_id, which)._perform(links)

    @outcome
    async def fetch(self, tenant_id: str, which: Which, request: Any) -> Any:
        """A response as it is sent, and how long its web socket may take for a message."""
        response = await self._entrypoint(tenant_id, which).fetch(Request.received(request, {}))
        if response.web_socket is None:
            return response.sent(), None
        response.web_socket.lead = Onward
        return response.sent(), response.web_socket.wall_s

    @outcome
    async def handle(self, tenant_id: str, which: Which, event: Any, subject: Any) -> Any:
        """See `Entrypoint.handle`."""
        return await self._entrypoint(tenant_id, which).handle(event, subject)

    @outcome
    async def evict(self, tenant_id: str) -> bool:
        """See `Host.evict`."""
        return self._host.evict(tenant_id)

    @outcome
    async def redeploy(self, tenant_id: str) -> bool:
        """See `Host.redeploy`."""
        return await self._host.redeploy(tenant_id)

    @outcome
    async def drain(self, tenant_id: str | None, timeout: float | None) -> bool:
        """See `Host.drain`."""
        return await self._host.drain(tenant_id, timeout=timeout)

    @outcome
    async def statistics(self) -> dict[str, Any]:
        """Of its loader and of its engine, as dicts, and the number of its process."""
        loader, engine = self._host.loader.statistics(), self._host.engine.statistics()
        return {"pid": os.getpid(), "loader": dataclasses.asdict(loader), "engine": dataclasses.asdict(engine)}

    def _entrypoint(self, tenant_id: str, which: Which) -> Entrypoint:
        name, props, limits, code = which
        return self._host.worker(tenant_id).get_entrypoint(
            name, props=props, limits=None if limits is None else Limits(**limits), code=code
        )


def _inside(params: Any) -> Any:
    return values.loads(unwrap(params.data)[1]) if isinstance(params, Encoded) else params


def _fields(subject: Any) -> tuple[Any, ...]:
    return tuple(getattr(subject, field.name) for field in dataclasses.fields(subject))
