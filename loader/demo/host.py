"""The service: a `cloister.loader.Host` on a folder, `python -m cloister.loader.demo.host FOLDER`.

Orders come in on standard input and news go out on standard output, one JSON object to a line; it ends when its input
does. It keeps nothing in memory that it would miss: killed at any instant and started again on the same folder, it goes
on. An order is answered when it is done; `push` may be repeated, as forges do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from cloister.loader import (
    DynamicInstance,
    EngineError,
    Host,
    InstanceAlreadyExists,
    LoaderError,
    SandboxError,
    TailEvent,
    TailLine,
    TailStart,
    WorkerCode,
)

from . import figures
from .forge import repositories
from .grants import Mirror, Store

_LOOK_EVERY: Final = 0.03
_LOOK_CLOSELY: Final = 0.002
_FINAL: Final = frozenset({"complete", "errored", "terminated"})


class Service:
    """The pipelines of all repositories, and what may be asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._repositories = repositories()
        self._pipelines: dict[str, DynamicInstance] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.host = Host(folder / "ci.db", get_code=self.code, spares=figures.SPARES)
        self.orders: dict[str, Callable[..., Awaitable[Any]]] = {
            "push": self.push, "evict": self.evict, "approve": self.approve, "measure": self.measure,
        }  # fmt: skip

    def code(self, tenant_id: str) -> WorkerCode:
        """What the host runs for a tenant: for a repository, what is in it, with its own pipeline in front."""
        if tenant_id.startswith(figures.TENANTS):
            return figures.code(tenant_id)
        grants = {"STORE": Store(self._folder, tenant_id), "MIRROR": Mirror(self._folder)}
        modules = self._repositories[tenant_id].files
        return WorkerCode(main_module="ci.py", modules=modules, env=grants, streaming_tails=(_tell_line,))

    async def push(self, push: dict[str, Any]) -> dict[str, Any]:
        """A push event: start the repository's pipeline, unless that commit has one."""
        repository = self._repositories[push["repository"]["full_name"]]
        workflows = self.host.workflows(repository.full_name)
        created = True
        try:
            pipeline = await workflows.create(id=repository.instance_id, params=repository.params)
        except InstanceAlreadyExists:
            created = False
            pipeline = await workflows.get(repository.instance_id)
        if repository.full_name not in self._pipelines:
            self._pipelines[repository.full_name] = pipeline
            self.spawn(self._watch(repository.full_name, pipeline))
        return {"instance": pipeline.id, "created": created}

    async def evict(self, repository: str, after: str) -> bool:
        """End the repository's sandbox as soon as a step of its pipeline is on record. False if it had none by then."""
        status: dict[str, Any] = {"status": "", "steps": []}
        while not _recorded(status, after) and status["status"] not in _FINAL:
            await asyncio.sleep(_LOOK_CLOSELY)
            status = await self._pipelines[repository].status()
        tell(news="status", repository=repository, status=status)
        return self.host.loader.evict(repository)

    async def approve(self, repository: str, by: str) -> None:
        """Somebody said yes."""
        await self._pipelines[repository].send_event(type="approval", payload={"approved": True, "by": by})

    async def measure(self) -> dict[str, Any]:
        """The three figures."""
        return await figures.measure(self.host)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on until it is done or the service ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def rest(self) -> None:
        """End what goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Tell what becomes of sandboxes."""
        async for event in self.host.loader.subscribe():
            tell(news="sandbox", repository=event.tenant_id, kind=event.kind, number=event.sandbox,
                 reason=event.reason, time=event.time)  # fmt: skip

    async def _watch(self, repository: str, pipeline: DynamicInstance) -> None:
        """Tell where a pipeline stands whenever that has changed, until it has ended."""
        told: dict[str, Any] = {}
        while told.get("status") not in _FINAL:
            status = await pipeline.status()
            if status != told:
                tell(news="status", repository=repository, status=status)
                told = status
            await asyncio.sleep(_LOOK_EVERY)


def _recorded(status: dict[str, Any], step: str) -> bool:
    return any(each["name"] == step and each["status"] == "done" for each in status["steps"])


def _tell_line(told: TailStart | TailLine | TailEvent) -> None:
    if isinstance(told, TailLine):
        tell(news="line", repository=told.tenant_id, level=told.level, text=told.text)


def tell(**message: Any) -> None:
    """One line out. What JSON has no form for is shown as Python would."""
    sys.stdout.write(json.dumps(message, default=repr) + "\n")
    sys.stdout.flush()


async def obey(service: Service, number: int, name: str, arguments: dict[str, Any]) -> None:
    """Carry out one order and answer it."""
    try:
        value = await service.orders[name](**arguments)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the answer
        tell(answer=number, error=f"{name}: {type(error).__name__}: {error}")
    else:
        tell(answer=number, value=value)


async def serve(folder: Path) -> None:
    """Run the service until nobody gives orders any longer."""
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    service = Service(folder)
    service.spawn(service.listen())  # before the host opens, which is when pipelines go on
    async with service.host:
        tell(news="ready", pid=os.getpid())
        while line := await orders.readline():
            order = json.loads(line)
            service.spawn(obey(service, order["number"], order["order"], order["arguments"]))
        await service.rest()


def main() -> int:
    """0 when it was told to end; 1 and a sentence on standard error when it could not do its work."""
    try:
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            asyncio.run(serve(Path(sys.argv[1])))
    except (LoaderError, SandboxError, EngineError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
