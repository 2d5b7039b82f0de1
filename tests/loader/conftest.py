"""What the tests of the loader share: one event loop and one loader for the folder, and a tenant for each test."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from cloister.engine import Engine, Workflow
from cloister.engine.testing import VirtualClock
from cloister.loader import (
    DynamicWorkflowBinding,
    Loader,
    WorkerCode,
    WorkerStub,
    create_dynamic_workflow_entrypoint,
    wrap_workflow_binding,
)

PATIENCE = 200.0
"""Seconds after which a test that waits for something has waited in vain."""
Managed = TypeVar("Managed")


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


def opened(runner: asyncio.Runner, manager: AbstractAsyncContextManager[Managed]) -> Iterator[Managed]:
    """The inside of an async context manager, as a fixture's."""
    value = runner.run(manager.__aenter__())
    yield value
    runner.run(manager.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def loader(runner: asyncio.Runner) -> Iterator[Loader]:
    """A loader with room for all tests that do not ask for their own."""
    yield from opened(runner, Loader(max_sandboxes=64, spares=3))


_numbers = itertools.count(1)


@pytest.fixture
def tenant() -> str:
    """A tenant that nobody else is."""
    return f"tenant-{next(_numbers)}"


@pytest.fixture
def code() -> Callable[..., WorkerCode]:
    """Source of a main module to `WorkerCode`."""

    def make(source: str, **options: Any) -> WorkerCode:
        return WorkerCode(main_module="main.py", modules={"main.py": textwrap.dedent(source)}, **options)

    return make


@pytest.fixture
def worker(loader: Loader, code: Callable[..., WorkerCode]) -> Callable[..., WorkerStub]:
    """Source of a main module to the worker of a new tenant."""

    def make(source: str, **options: Any) -> WorkerStub:
        made = code(source, **options)
        return loader.get(f"tenant-{next(_numbers)}", lambda: made)

    return make


@pytest.fixture
def clock() -> VirtualClock:
    """Give it to an engine: time passes when a test says so."""
    return VirtualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that is not there yet."""
    return tmp_path / "app.db"


@pytest.fixture
def engine(runner: asyncio.Runner, path: Path) -> Iterator[Engine]:
    """An engine on a new file."""
    yield from opened(runner, Engine(path))


@pytest.fixture
def raw(runner: asyncio.Runner, engine: Engine, loader: Loader, programs: dict[str, WorkerCode]) -> Workflow:
    """The raw binding of a dynamic workflow whose tenants run what `programs` has for them."""

    def load(context: Any) -> Any:
        tenant = context.metadata["tenant_id"]
        return loader.get(tenant, lambda: programs[tenant]).get_entrypoint("TenantWorkflow")

    async def register() -> Workflow:
        return engine.workflow("dynamic-workflow", create_dynamic_workflow_entrypoint(load))

    return runner.run(register())


@pytest.fixture
def programs() -> dict[str, WorkerCode]:
    """Each tenant's code, as a host's code store would have it."""
    return {}


@pytest.fixture
def bind(raw: Workflow, programs: dict[str, WorkerCode], code: Callable[..., WorkerCode]) -> Callable[..., Any]:
    """Give a new tenant a program; its wrapped binding, which the program finds in its env as `WORKFLOWS`."""

    def make(source: str, *, env: dict[str, Any] | None = None, **options: Any) -> DynamicWorkflowBinding:
        tenant = f"tenant-{next(_numbers)}"
        binding = wrap_workflow_binding(raw, {"tenant_id": tenant})
        programs[tenant] = code(source, env={"WORKFLOWS": binding, **(env or {})}, **options)
        return binding

    return make


@pytest.fixture
def pass_time(clock: VirtualClock) -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Let virtual time pass, and real sandboxes work, until something holds."""

    async def until(holds: Callable[[], Awaitable[bool]]) -> None:
        while not await holds():
            await clock.advance(30)
            await asyncio.sleep(0.001)

    return until


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
