"""The tenants: a program for each, which no other one has, and the host that they are tenants of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.engine.clock import Clock, SystemClock
from cloister.ipc import values
from cloister.loader import Host, RpcTarget, Shard, WorkerCode
from cloister.loader.config import LoaderConfig
from cloister.loader.dispatch import unwrap

from .site import Site

WARM = 256
INSTANCE = "order"
SOURCE = """\
from workers import WorkerEntrypoint, WorkflowEntrypoint

class Default(WorkerEntrypoint):
    async def greet(self, name):
        return f"Hello {{name}} from tenant {number}"

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        price = await step.do("price", lambda: {number} * 7)
        await step.sleep_until("due", event.payload.due)
        await step.do("charge", lambda: self.env.BOOK.charge({number}, price))
        paid = await step.wait_for_event("paid", type="paid", timeout="365 days")
        return await step.do("thank", lambda: [{number}, price, paid.payload])
"""


def code(number: int, book: Book | None = None) -> WorkerCode:
    """A tenant's own program."""
    env = {} if book is None else {"BOOK": book}
    return WorkerCode(main_module="main.py", modules={"main.py": SOURCE.format(number=number)}, env=env)


class Book(RpcTarget):
    """What a tenant's second step calls once it is awake. `hear` is told who, when that was the right price."""

    def __init__(self, hear: Callable[[int], None]) -> None:
        self._hear = hear

    def charge(self, number: int, price: int) -> None:
        """A step's body runs."""
        if price != number * 7:
            raise ValueError(f"tenant {number} asks for {price}, which is not what its first step came to")
        self._hear(number)


class StandIn(WorkflowEntrypoint):
    """Takes a tenant's first step and goes to sleep in its place: a million cold boots would take the better part of an
    hour. What it records is what the tenant's own program does, as the replay will show.
    """

    async def run(self, event: Any, step: Any) -> None:
        """The workflow."""
        metadata, params = unwrap(event.encoded_payload)
        number = int(metadata["tenant_id"].removeprefix("t-"))
        await step.do("price", lambda: number * 7)
        await step.sleep_until("due", values.loads(params)["due"])


def host(site: Site, clock: Clock, hear: Callable[[int], None] = lambda _: None, **more: Any) -> Host:
    """One that has them all, and room for some to be warm."""
    book = Book(hear)
    engine = Engine(site.path, clock=clock, linger=0.005)
    more.setdefault("config", LoaderConfig(max_sandboxes=site.share(WARM), sandboxes_per_tenant=1))
    return Host(
        site.path, get_code=lambda tenant: code(int(tenant.removeprefix("t-")), book), engine=engine,
        retention="forever", **more,
    )  # fmt: skip


def registering(shard: Shard) -> Host:
    """The host of a shard while all are being registered: nobody's turn comes."""

    async def never(tenant: str) -> WorkerCode:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    return Host(shard.path, get_code=never, concurrency=1, spares=0, retention="forever")


def idling(shard: Shard) -> Host:
    """The host of a shard that has its tenants, and nothing to do."""
    site = Site.open(shard.folder.parent)
    return host(replace(site, part=shard.number, shards=shard.count), SystemClock())
