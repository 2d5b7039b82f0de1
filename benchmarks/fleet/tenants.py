"""The tenants: a program for each, which no other one has, and the host that they are tenants of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.engine.clock import Clock
from cloister.ipc import values
from cloister.loader import Host, RpcTarget, WorkerCode
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


def name(number: int) -> str:
    """A tenant's id."""
    return f"t-{number}"


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


class Held(WorkflowEntrypoint):
    """Nobody's turn comes while all are being registered."""

    async def run(self, event: Any, step: Any) -> None:
        """The workflow."""
        await asyncio.get_running_loop().create_future()


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
    more.setdefault("config", LoaderConfig(max_sandboxes=WARM, sandboxes_per_tenant=1))
    return Host(
        site.path, get_code=lambda tenant: code(int(tenant.removeprefix("t-")), book), engine=engine,
        retention="forever", **more,
    )  # fmt: skip


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
