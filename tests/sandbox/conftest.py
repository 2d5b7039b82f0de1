"""What the tests of sandboxes share: one loop and one zygote for all of them, and tenants that do as they are told."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox import Limits, LogLine, Policy, Sandbox, Spawner

PROGRAM = '''
import inspect
from workers import WorkerEntrypoint

def attempt(what):
    """What a function returns, or the name of the error that the system refused it with."""
    try:
        return repr(what())
    except OSError as error:
        return type(error).__name__

class Default(WorkerEntrypoint):
    async def do(self, source, *arguments):
        """Run a program that the test sends, and then its `main`."""
        names = {"env": self.env, "ctx": self.ctx, "attempt": attempt}
        exec(source, names)
        result = names["main"](*arguments)
        return await result if inspect.isawaitable(result) else result
'''


class Tenant:
    """A booted sandbox. `lines` is what it printed; `do` runs the function `main` of some source in it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.lines: list[LogLine] = []
        sandbox.tail.listener = self.lines.append

    async def invoke(self, method: str, *arguments: Any, limits: Limits | None = None, name: str | None = None) -> Any:
        """Call a method of an entrypoint."""
        payload = await self.sandbox.call("invoke", [name, method, list(arguments), {}, None], limits)
        return self.sandbox.decode(payload)

    async def do(self, source: str, *arguments: Any, limits: Limits | None = None) -> Any:
        """Run source that defines `main`, with arguments, under limits."""
        return await self.invoke("do", textwrap.dedent(source), *arguments, limits=limits)

    @property
    def text(self) -> list[str]:
        """What it printed, as `level: text`."""
        return [f"{line.level}: {line.text}" for line in self.lines]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """An async test runs on the loop of the session, or on one apart, and fails if something raises where nobody
    listens."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    which = "apart" if "apart" in pyfuncitem.fixturenames else "runner"
    runner: asyncio.Runner = pyfuncitem._request.getfixturevalue(which)
    wanted = pyfuncitem._fixtureinfo.argnames
    unheard: list[dict[str, Any]] = []
    runner.get_loop().set_exception_handler(lambda _, context: unheard.append(context))
    runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    assert not unheard
    return True


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The loop that all tests of this folder run on."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def apart() -> Iterator[asyncio.Runner]:
    """A loop for one test, which counts what this process holds: on that of all, spares would come and go meanwhile."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def spawner(runner: asyncio.Runner) -> Iterator[Spawner]:
    """One zygote for all tests that do it no harm."""
    spawner = Spawner(spares=2)
    runner.run(spawner.__aenter__())
    yield spawner
    runner.run(spawner.__aexit__(None, None, None))


@pytest.fixture
def boot(runner: asyncio.Runner, spawner: Spawner) -> Iterator[Callable[..., Any]]:
    """Boot a tenant: by default one that does what it is told. All of them are closed after the test."""
    sandboxes: list[Sandbox] = []

    async def start(
        source: str | None = None,
        *,
        main: str = "main.py",
        modules: dict[str, Any] | None = None,
        env: dict[str, Any] | None = None,
        limits: Limits | None = None,
        spawner: Spawner = spawner,
    ) -> Tenant:
        sandbox = await spawner.take()
        sandboxes.append(sandbox)
        tenant = Tenant(sandbox)
        code: dict[str, Any] = {main: ["py", PROGRAM if source is None else textwrap.dedent(source)]}
        await sandbox.boot(main, (modules or {}) | code, env or {}, limits or Limits())
        return tenant

    yield start

    async def close() -> None:
        for sandbox in sandboxes:
            await sandbox.close("the test is over")

    runner.run(close())


@pytest.fixture
def tenant(runner: asyncio.Runner, boot: Callable[..., Any]) -> Tenant:
    """A booted sandbox that does what it is told."""

    async def start() -> Tenant:
        tenant: Tenant = await boot()
        return tenant

    return runner.run(start())


@pytest.fixture
def open_spawner() -> Callable[..., Any]:
    """A zygote of the test's own, for what would disturb the others."""

    @asynccontextmanager
    async def start(*, spares: int = 0, policy: Policy | None = None) -> AsyncIterator[Spawner]:
        async with Spawner(spares=spares, policy=policy) as spawner:
            yield spawner

    return start


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Any]:
    """Wait for a condition, turn by turn of the loop."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(250):
            while not condition():  # noqa: ASYNC110 - nobody could set an event for any condition
                await asyncio.sleep(0.002)

    return wait


@pytest.fixture
def run_out() -> Callable[[Tenant], None]:
    """The time of every call in a sandbox that has a limit is over, whatever the clock says."""

    def run_out(tenant: Tenant) -> None:
        peer = tenant.sandbox._peer
        for call, deadline in peer.connection._outgoing.items():
            if deadline is not None:
                peer.connection._outgoing[call] = 0.0
        peer._expire()

    return run_out


@pytest.fixture
def status() -> Callable[[int], dict[str, str]]:
    """What the kernel says of a process, by field."""

    def read(pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    return read
