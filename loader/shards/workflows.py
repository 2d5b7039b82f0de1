"""A tenant's workflow binding and instances as the front has them: names and ids, and each call goes to the shard."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, overload

from cloister.engine import HistoryEvent, Page, Schedule, Status, Summary
from cloister.engine.options import together
from cloister.engine.rules import check_known_id, check_timeout
from cloister.ipc.values import Named

from ..errors import ShardLost
from .keeper import Keeper
from .options import each_packed, packed
from .told import untold

_SCHEDULE: Final = ("cron", "zone", "scope", "params", "labels", "retention")


class ShardInstance:
    """See `DynamicInstance`."""

    def __init__(self, keeper: Keeper, tenant_id: str, id: str) -> None:  # noqa: A002
        self._keeper, self._tenant_id = keeper, tenant_id
        self.id = id

    async def status(self) -> dict[str, Any]:
        """See `cloister.engine.Instance.status`."""
        found: dict[str, Any] = await self._read("status")
        return found

    async def result(self, timeout: float | None = None) -> Any:
        """See `cloister.engine.Instance.result`. It goes on waiting while its shard is started again."""
        left, now = check_timeout(timeout), asyncio.get_running_loop().time
        until = None if left is None else now() + left
        while True:
            try:
                return await self._do("result", left)
            except ShardLost:
                left = None if until is None else max(until - now(), 0.0)

    async def step_result(self, step: object) -> Any:
        """See `cloister.engine.Instance.step_result`."""
        return await self._read("step_result", step)

    async def interventions(self) -> list[dict[str, Any]]:
        """See `cloister.engine.Instance.interventions`."""
        found: list[dict[str, Any]] = await self._read("interventions")
        return found

    async def pause(self) -> None:
        """See `cloister.engine.Instance.pause`."""
        await self._do("pause")

    async def resume(self) -> None:
        """See `cloister.engine.Instance.resume`."""
        await self._do("resume")

    async def terminate(self, options: Mapping[str, Any] | None = None, /, *, rollback: bool = False) -> None:
        """See `cloister.engine.Instance.terminate`."""
        await self._do("terminate", options, rollback=rollback)

    async def restart(self, *, from_step: object = None) -> None:
        """See `cloister.engine.Instance.restart`."""
        await self._do("restart", from_step=from_step)

    async def delete(self) -> None:
        """See `cloister.engine.Instance.delete`."""
        await self._do("delete")

    async def send_event(self, options: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """See `cloister.engine.Instance.send_event`. With an `id` it may be sent again after `ShardLost`."""
        given = together(options, more, ("type", "payload", "id"), what="send_event()")
        await self._keeper.ask("send_event", self._tenant_id, self.id, packed(given))

    async def override(self, step: object, *, author: str, reason: str, **outcome: Any) -> None:
        """See `cloister.engine.Instance.override`."""
        await self._do("override", step, author=author, reason=reason, **outcome)

    async def fork(
        self, options: Mapping[str, Any] | None = None, /, *, from_step: object = None, **more: Any
    ) -> ShardInstance:
        """See `cloister.engine.Instance.fork`."""
        given = together(options, more, more, what="fork()")
        id = await self._keeper.ask("fork", self._tenant_id, self.id, packed(given), from_step)  # noqa: A001
        return ShardInstance(self._keeper, self._tenant_id, id)

    async def subscribe(self, cursor: int | None = None, *, types: object = None) -> AsyncIterator[HistoryEvent]:
        """See `cloister.engine.Instance.subscribe`. It goes on where it was when its shard is started again."""
        while True:
            await self._keeper.returned()
            try:
                async with await self._keeper.stream("subscribe", self._tenant_id, self.id, cursor, types) as events:
                    async for done, found in events:
                        if not done:
                            raise untold(found)
                        event = HistoryEvent(*found)
                        cursor = event.id
                        yield event
                return
            except ShardLost:
                await asyncio.sleep(0)

    async def _read(self, method: str, *args: Any) -> Any:
        return await self._keeper.ask("instance", self._tenant_id, self.id, method, Named((args, {})), again=True)

    async def _do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await self._keeper.ask("instance", self._tenant_id, self.id, method, Named((args, kwargs)))

    def __repr__(self) -> str:
        return f"<ShardInstance {self.id!r}>"


class ShardWorkflows:
    """See `DynamicWorkflowBinding`."""

    def __init__(self, keeper: Keeper, tenant_id: str) -> None:
        self._keeper, self.scope = keeper, tenant_id

    async def create(self, options: Mapping[str, Any] | None = None, /, **more: Any) -> ShardInstance:
        """See `cloister.engine.Workflow.create`."""
        return self._made(await self._keeper.ask("create", self.scope, packed(together(options, more))))

    @overload
    async def create_batch(self, entries: Sequence[Mapping[str, Any]], /) -> list[ShardInstance]: ...
    @overload
    async def create_batch(self, entries: Mapping[str, Any], /) -> dict[str, Any]: ...

    async def create_batch(
        self, entries: Sequence[Mapping[str, Any]] | Mapping[str, Any], /
    ) -> list[ShardInstance] | dict[str, Any]:
        """See `cloister.engine.Workflow.create_batch`."""
        made = await self._keeper.ask("create_batch", self.scope, each_packed(entries))
        if isinstance(made, dict):
            return {**made, "created": [self._made(each) for each in made["created"]]}
        return [self._made(each) for each in made]

    async def get(self, id: str) -> ShardInstance:  # noqa: A002
        """See `cloister.engine.Workflow.get`."""
        await self._keeper.ask("get", self.scope, id, again=True)
        return self._made(id)

    def handle(self, id: str) -> ShardInstance:  # noqa: A002
        """See `cloister.engine.Workflow.handle`."""
        return self._made(check_known_id(id))

    async def list(self, **options: Any) -> Page:
        """See `cloister.engine.Workflow.list`."""
        lines, cursor = await self._keeper.ask("list", self.scope, options, again=True)
        return Page(tuple(replace(line := Summary(*each), status=Status(line.status)) for each in lines), cursor)

    async def add_schedule(self, schedule: Schedule, /) -> None:
        """See `DynamicWorkflowBinding.add_schedule`."""
        fields = {name: getattr(schedule, name) for name in _SCHEDULE}
        await self._keeper.ask("add_schedule", self.scope, fields)

    async def remove_schedule(self, name: str, /) -> None:
        """See `DynamicWorkflowBinding.remove_schedule`."""
        await self._do("remove_schedule", name)

    async def schedules(self) -> builtins.list[Schedule]:
        """This tenant's."""
        return [Schedule(**fields) for fields in await self._keeper.ask("schedules", self.scope, again=True)]

    async def delete_batch(self, ids: Sequence[str], /) -> dict[str, Any]:
        """See `cloister.engine.Workflow.delete_batch`."""
        found: dict[str, Any] = await self._do("delete_batch", ids)
        return found

    async def bulk(self, action: str, /, **filters: Any) -> dict[str, int]:
        """See `cloister.engine.Workflow.bulk`."""
        found: dict[str, int] = await self._do("bulk", action, **filters)
        return found

    async def _do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await self._keeper.ask("binding", self.scope, method, Named((args, kwargs)))

    def _made(self, id: str) -> ShardInstance:  # noqa: A002
        return ShardInstance(self._keeper, self.scope, id)

    def __repr__(self) -> str:
        return f"<ShardWorkflows of {self.scope!r}>"
