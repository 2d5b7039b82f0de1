"""A sandbox that is ended from outside before it was used: the call that had taken it never hears of it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine
from cloister.loader import (
    LoadBackedOff,
    Loader,
    LoaderConfig,
    RpcTarget,
    TailLine,
    WorkerCode,
    create_dynamic_workflow_entrypoint,
    wrap_workflow_binding,
)
from cloister.loader.boots import TRIES
from cloister.sandbox import Sandbox, SandboxDied, SandboxUnused, Spawner

Code = Callable[..., WorkerCode]
SOURCE = """
from workers import WorkerEntrypoint, WorkflowEntrypoint, Response
class Default(WorkerEntrypoint):
    async def use(self, thing):
        return await thing.read()
    async def count(self, items):
        return [item async for item in items]
    async def fetch(self, request):
        return Response(await request.text())
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        return await step.do("one", lambda: 1)
"""


class Page(RpcTarget):
    """What is of no use any more once nobody holds it."""

    def __init__(self) -> None:
        self.disposed = 0

    def read(self) -> str:
        """What it says."""
        return "closed" if self.disposed else "open"

    def rpc_disposed(self) -> None:
        """Nobody holds it."""
        self.disposed += 1


class Killer:
    """Ends the next so many sandboxes that are taken, as somebody on the machine could."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.taken: list[Sandbox] = []
        take = Spawner.take

        async def taken(spawner: Spawner) -> Sandbox:
            sandbox = await take(spawner)
            self.taken.append(sandbox)
            if self.left:
                self.left -= 1
                signal.pidfd_send_signal(sandbox._process._pidfd, signal.SIGKILL)
            return sandbox

        monkeypatch.setattr(Spawner, "take", taken)


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    """Told by each test how many."""
    return Killer(monkeypatch)


def open_loader(**config: Any) -> Loader:
    """A loader that would leave a tenant alone for a minute after any failure."""
    return Loader(max_sandboxes=8, spares=2, config=LoaderConfig(backoff_s=60.0, backoff_most_s=60.0, **config))


async def test_a_call_goes_to_another_one(code: Code, killer: Killer) -> None:
    """With what it was given, streams included, and nobody is left alone for it."""

    async def items() -> AsyncIterator[int]:
        for item in range(3):
            yield item

    async with open_loader() as loader:
        entrypoint = loader.get("t", lambda: code(SOURCE)).get_entrypoint()
        killer.left, page = TRIES - 1, Page()
        assert await entrypoint.use(page) == "open"
        loader.evict("t")
        killer.left = TRIES - 1
        assert await entrypoint.count(items()) == [0, 1, 2]
        assert len(killer.taken) == 2 * TRIES
        assert loader.statistics().failing == 0


async def test_so_does_a_request_and_a_run(code: Code, killer: Killer, tmp_path: Path) -> None:
    """A run has lost nothing by it."""
    async with open_loader() as loader, Engine(tmp_path / "engine.db") as engine:
        stub = loader.get("t", lambda: code(SOURCE))
        killer.left = TRIES - 1
        async with await stub.get_entrypoint().fetch("https://t.example/", method="POST", body="hello") as response:
            assert await response.text() == "hello"
        loader.evict("t")
        killer.left = TRIES - 1
        entrypoint = create_dynamic_workflow_entrypoint(lambda _: stub.get_entrypoint("TenantWorkflow"))
        binding = wrap_workflow_binding(engine.workflow("w", entrypoint), {"tenant_id": "t"})
        instance = await binding.create({"params": {}})
        assert await instance.result(timeout=100) == 1
        assert len(killer.taken) == 2 * TRIES


async def test_so_does_a_redeploy(code: Code, killer: Killer) -> None:
    """The new code serves in the end."""
    async with open_loader() as loader:
        entrypoint = loader.get("t", lambda: code(SOURCE)).get_entrypoint()
        assert await entrypoint.use(Page()) == "open"
        killer.left = TRIES - 1
        assert await loader.redeploy("t", lambda: code(SOURCE.replace("await thing.read()", "'new'")))
        assert await entrypoint.use(Page()) == "new"


async def test_what_ends_each_is_not_tried_for_ever(code: Code, killer: Killer) -> None:
    """Code can do so in its import, where there are no namespaces. It is told as what it is, and then left alone like
    all code that does not load."""
    async with open_loader() as loader:
        entrypoint = loader.get("t", lambda: code(SOURCE)).get_entrypoint()
        killer.left = 99
        with pytest.raises(SandboxUnused, match="the sandbox was killed by SIGKILL"):
            await entrypoint.use(None)
        assert len(killer.taken) == TRIES
        with pytest.raises(LoadBackedOff, match="was killed by SIGKILL"):
            await entrypoint.use(None)


async def test_what_was_begun_is_never_done_again(code: Code, killer: Killer) -> None:
    """Not even the import: once it has said a word, its call fails with it."""
    said = asyncio.Event()
    source = "from workers import env\nimport os, time\nprint('begun')\ntime.sleep(60)\n" + SOURCE

    async with open_loader() as loader:
        made = code(source, streaming_tails=(lambda told: said.set() if isinstance(told, TailLine) else None,))
        call = asyncio.ensure_future(loader.get("t", lambda: made).get_entrypoint().use(None))
        await said.wait()
        os.kill(killer.taken[0].pid, signal.SIGKILL)
        with pytest.raises(SandboxDied, match="killed by SIGKILL") as caught:
            await call
        assert type(caught.value) is SandboxDied
        assert len(killer.taken) == 1


async def test_a_blank_one_that_dies_before_it_is_ready_is_no_news_either(
    code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another is forked."""
    ready, left = Sandbox.ready, [TRIES - 1]

    async def killed(sandbox: Sandbox, timeout: float) -> None:
        if left[0]:
            left[0] -= 1
            sandbox._process.kill()
            await sandbox.died
        await ready(sandbox, timeout)

    monkeypatch.setattr(Sandbox, "ready", killed)
    async with Loader(max_sandboxes=8, spares=0) as loader:
        assert await loader.get("t", lambda: code(SOURCE)).get_entrypoint().use(Page()) == "open"
        assert left == [0]


async def test_a_zygote_that_dies_under_it_is_none(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its sandboxes die with it: the one that was just taken too."""
    take, left = Spawner.take, [1]

    async def taken(spawner: Spawner) -> Sandbox:
        sandbox = await take(spawner)
        if left[0]:
            left[0] -= 1
            assert spawner.zygote_pid is not None
            os.kill(spawner.zygote_pid, signal.SIGKILL)
            while sandbox._process.alive():
                time.sleep(0.001)  # noqa: ASYNC251 - the loop is not to hear of it
        return sandbox

    monkeypatch.setattr(Spawner, "take", taken)
    async with open_loader() as loader:
        assert await loader.get("t", lambda: code(SOURCE)).get_entrypoint().use(Page()) == "open"
