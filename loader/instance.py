"""A tenant's handle on one of its instances: for the host an object, for the tenant a capability."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from cloister.engine import Encoded, HistoryEvent, Instance, Rehearsal, WorkflowEntrypoint
from cloister.ipc import values

from .answers import NONE, Answering, Parts, read_options


class DynamicInstance(Answering):
    """One of the tenant's instances."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.id = instance.id

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The id, which a stub knows without asking."""
        return {"id": self.id}

    async def status(self) -> dict[str, Any]:
        """See `cloister.engine.Instance.status`."""
        return await self._instance.status()

    async def pause(self) -> None:
        """See `cloister.engine.Instance.pause`."""
        await self._instance.pause()

    async def resume(self) -> None:
        """See `cloister.engine.Instance.resume`."""
        await self._instance.resume()

    async def terminate(self, options: Mapping[str, Any] | None = None, /, *, rollback: bool = False) -> None:
        """See `cloister.engine.Instance.terminate`."""
        await self._instance.terminate(rollback=rollback or bool((options or {}).get("rollback")))

    async def restart(self, *, from_step: object = None) -> None:
        """See `cloister.engine.Instance.restart`."""
        await self._instance.restart(from_step=from_step)

    async def delete(self) -> None:
        """See `cloister.engine.Instance.delete`."""
        await self._instance.delete()

    async def rehearse(self, entrypoint: type[WorkflowEntrypoint] | None = None) -> Rehearsal:
        """See `cloister.engine.Instance.rehearse`. For the host."""
        return await self._instance.rehearse(entrypoint)

    async def step_result(self, step: object) -> Any:
        """See `cloister.engine.Instance.step_result`. For the host."""
        return await self._instance.step_result(step)

    async def fork(
        self, options: Mapping[str, Any] | None = None, /, *, from_step: object = None, **more: Any
    ) -> DynamicInstance:
        """See `cloister.engine.Instance.fork`. For the host."""
        return DynamicInstance(await self._instance.fork(options, from_step=from_step, **more))

    async def override(self, step: object, *, author: str, reason: str, **outcome: Any) -> None:
        """See `cloister.engine.Instance.override`. For the host."""
        await self._instance.override(step, author=author, reason=reason, **outcome)

    async def interventions(self) -> list[dict[str, Any]]:
        """See `cloister.engine.Instance.interventions`. For the host."""
        return await self._instance.interventions()

    async def send_event(self, options: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """See `cloister.engine.Instance.send_event`."""
        await self._instance.send_event(options, **more)

    def subscribe(self, cursor: int | None = None, *, types: object = None) -> AsyncIterator[HistoryEvent]:
        """See `cloister.engine.Instance.subscribe`."""
        return self._instance.subscribe(cursor, types=types)

    async def result(self, timeout: float | None = None) -> Any:
        """See `cloister.engine.Instance.result`."""
        return await self._instance.result(timeout)

    async def _status(self, args: Parts, named: dict[str, bytes]) -> Encoded:
        status = await self._instance.status_encoded()
        output = status.pop("output")
        parts = {name: values.dumps(value) for name, value in status.items()}
        return Encoded(values.join({**parts, "output": output.data if output is not None else NONE}))

    async def _send_event(self, args: Parts, named: dict[str, bytes]) -> None:
        await self._instance.send_event(read_options([*args[:1], values.join(named)], opaque="payload"))

    async def _pause(self, args: Parts, named: dict[str, bytes]) -> None:
        await self.pause()

    async def _resume(self, args: Parts, named: dict[str, bytes]) -> None:
        await self.resume()

    async def _terminate(self, args: Parts, named: dict[str, bytes]) -> None:
        await self.terminate(read_options([*args[:1], values.join(named)]))

    async def _restart(self, args: Parts, named: dict[str, bytes]) -> None:
        given = read_options([*args[:1], values.join(named)])
        if not given.keys() <= {"from", "from_step", "fromStep"} or len(given) > 1:
            raise TypeError("restart() takes one option: `from`, the step to begin from")
        await self.restart(from_step=next(iter(given.values()), None))

    async def _delete(self, args: Parts, named: dict[str, bytes]) -> None:
        await self.delete()

    async def _subscribe(self, args: Parts, named: dict[str, bytes]) -> AsyncIterator[dict[str, Any]]:
        given = read_options([*args[:1], values.join(named)])
        if not given.keys() <= {"cursor", "filter", "types"} or {"filter", "types"} <= given.keys():
            raise TypeError("subscribe() takes `cursor`, and `filter`, a list of the types that are wanted")
        types = given.get("filter", given.get("types"))
        events = self.subscribe(given.get("cursor"), types=types)
        return (event.plain(self.id) async for event in events)

    _methods = {
        "status": _status,
        "subscribe": _subscribe,
        "restart": _restart,
        "delete": _delete,
        "pause": _pause,
        "resume": _resume,
        "terminate": _terminate,
        "send_event": _send_event,
        "sendEvent": _send_event,
    }

    def __repr__(self) -> str:
        return f"<DynamicInstance {self.id!r}>"
