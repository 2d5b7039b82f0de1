"""What the stories share: an event loop, a ledger outside of every sandbox, and a stage with time under control."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.engine import Engine
from cloister.engine.testing import VirtualClock
from cloister.loader import (
    DynamicWorkflowBinding,
    Loader,
    LoaderConfig,
    RpcTarget,
    WorkerCode,
    wrap_workflow_binding,
)
from cloister.loader.dispatch import create_dynamic_workflow_entrypoint

PATIENCE = 200.0
"""Seconds after which a story that waits for something has waited in vain."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """An async test runs on the folder's event loop, and nothing may go wrong there behind its back."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    runner = pyfuncitem.funcargs["runner"]
    assert isinstance(runner, asyncio.Runner)
    unhandled: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        async with asyncio.timeout(PATIENCE):
            await pyfuncitem.obj(**arguments)

    runner.run(bounded())
    assert not unhandled, unhandled
    return True


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[asyncio.Runner]:
    """The one event loop; no process is left when it ends."""
    others = set(psutil.Process().children())  # of a fixture that lives for longer
    with asyncio.Runner() as runner:
        yield runner
    left = set(psutil.Process().children()) - others
    psutil.wait_procs(left, timeout=PATIENCE)
    assert set(psutil.Process().children()) <= others


class Ledger(RpcTarget):
    """Kept by the host, written by tenants: what began, in order. Nothing in a sandbox can take an entry back."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.times: list[int] = []
        self.now: Callable[[], int] = lambda: 0
        self.on_entry: Callable[[str], None] = lambda _: None

    async def note(self, entry: str) -> int:
        """Something begins: how often it has begun by now."""
        self.entries.append(entry)
        self.times.append(self.now())
        self.on_entry(entry)
        return self.entries.count(entry)


@pytest.fixture
def ledger() -> Ledger:
    """A new ledger, which tenants find in their env as `LEDGER`."""
    return Ledger()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that is not there yet."""
    return tmp_path / "app.db"


@pytest.fixture
def clock() -> VirtualClock:
    """Give it to an engine: time passes when a test says so."""
    return VirtualClock()


@pytest.fixture(scope="module")
def loader(runner: asyncio.Runner) -> Iterator[Loader]:
    """A loader for the tests that are about something else."""
    loader = Loader(max_sandboxes=32, spares=3, config=LoaderConfig(restart_most_s=0.25))
    yield runner.run(loader.__aenter__())
    runner.run(loader.__aexit__(None, None, None))


_MOMENT, _LONGER = 0.06, 1.01
"""Seconds, a little more than a run that only waits is kept for; and by how much more each time."""


class Stage:
    """One tenant, one engine on a clock of its own, and the shared loader: for programs that are looked at closely."""

    def __init__(self, name: str, engine: Engine, loader: Loader, clock: VirtualClock, ledger: Ledger) -> None:
        self.name, self.engine, self.loader, self.clock, self.ledger = name, engine, loader, clock, ledger
        self.source = ""
        self.env: dict[str, Any] = {"LEDGER": ledger}
        self.options: dict[str, Any] = {}
        self._binding: DynamicWorkflowBinding | None = None
        ledger.now = clock.now

    def code(self) -> WorkerCode:
        """The tenant's code of today."""
        modules = {"main.py": textwrap.dedent(self.source)}
        return WorkerCode(main_module="main.py", modules=modules, env=self.env, **self.options)

    def bind(self, source: str) -> DynamicWorkflowBinding:
        """Give the tenant its program."""
        self.source = source
        if self._binding is None:
            stub = self.loader.get(self.name, self.code).get_entrypoint
            entrypoint = create_dynamic_workflow_entrypoint(lambda _: stub("TenantWorkflow"))
            self._binding = wrap_workflow_binding(self.engine.workflow("w", entrypoint), {"tenant_id": self.name})
        return self._binding

    def evict(self) -> bool:
        """Take the tenant's sandbox away."""
        return self.loader.evict(self.name)

    async def until(self, holds: Callable[[], Awaitable[bool]], *, step: float = 600.0) -> None:
        """Let virtual time pass, so many seconds at once, and the sandbox work, until something holds.

        While a program is at work time goes by in small pieces, which grow as long as nothing comes of it: what takes a
        busy machine a moment is not to be seen to take an hour.
        """
        passed, commits = _MOMENT, -1
        while not await holds():
            now = self.engine.statistics()
            passed = _MOMENT if now.commits != commits else passed * _LONGER
            commits = now.commits
            await self.clock.advance(min(passed, step) if now.running else step)
            await asyncio.sleep(0.001)

    async def outcome(self, instance: Any, *, step: float = 600.0) -> Any:
        """Let time pass until the instance has ended; its output, or the error it ended with."""

        async def over() -> bool:
            return (await instance.status())["status"] in {"complete", "errored", "terminated"}

        await self.until(over, step=step)
        status = await instance.status()
        return status["output"] if status["error"] is None else status["error"]

    async def rests(self, instance: Any) -> None:
        """Wait until the instance only waits and its run has been dropped. No time passes but what a run is kept for
        when its program has come to rest: for however long that takes, what it waits for does not come meanwhile."""
        while (await instance.status())["status"] != "waiting":
            await self.clock.run_until_idle()
            if min((timer.moment() for timer in self.clock._timers), default=inf) - self.clock._elapsed < _MOMENT:
                await self.clock.advance(_MOMENT)
            await asyncio.sleep(0.001)


@pytest.fixture
def stage(
    runner: asyncio.Runner,
    request: pytest.FixtureRequest,
    path: Path,
    loader: Loader,
    clock: VirtualClock,
    ledger: Ledger,
) -> Iterator[Stage]:
    """A stage of its own for each test."""
    engine = Engine(path, clock=clock)
    runner.run(engine.__aenter__())
    yield Stage(f"stage {request.node.name}", engine, loader, clock, ledger)
    runner.run(engine.__aexit__(None, None, None))


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    """Wait for a condition that nobody announces; it may be a coroutine function."""

    async def wait(holds: Callable[[], Any]) -> None:
        while True:
            held = holds()
            if await held if inspect.isawaitable(held) else held:
                return
            await asyncio.sleep(0.002)

    return wait
