"""What the tests of the engine share: async tests, a clock that stands still, an engine on a fresh file."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import Engine, handover, promptness, writer
from cloister.engine.testing import VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.handover import Handover

OpenEngine = Callable[..., Engine]
Rests = Callable[["Handover[Any]"], Awaitable[None]]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """An async test runs on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no engine takes it for quiet while a test looks at the log, or at who commits."""
    monkeypatch.setattr(writer, "QUIET_SECONDS", 3600.0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def open_engine(path: Path, clock: VirtualClock) -> OpenEngine:
    """An engine on the test's file and clock; opened again after its end, it is the next host on it."""

    def make(**options: Any) -> Engine:
        return Engine(path, clock=clock, **options)

    return make


@pytest.fixture(params=["thread", "loop"])
def hands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who makes the commits of little: the thread, as on a slow disk, or the loop itself, as on a prompt one."""
    monkeypatch.setattr(promptness, "PROOF", {"thread": 1 << 30, "loop": -(1 << 30)}[request.param])
    return str(request.param)


class Bell(SimpleQueue[None]):
    """Tells whether somebody listens to it."""

    listened_to = False

    def get(self, block: bool = True, timeout: float | None = None) -> None:
        self.listened_to = True
        return super().get(block, timeout)

    def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
        self.listened_to = False
        super().put(item, block, timeout)


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Rests:
    """Wait until the thread at the end of a way sleeps and all that it told was heard: what comes next is the loop's to
    do or to wake it for. A thread that is on its way to sleep, as it long may be on a busy machine, would take it.
    """
    monkeypatch.setattr(handover, "SimpleQueue", Bell)

    async def wait(way: Handover[Any]) -> None:
        bell = way._bell
        assert isinstance(bell, Bell)
        while way._told or not bell.listened_to:  # noqa: ASYNC110 - with each turn of the loop it may be so
            await asyncio.sleep(0)

    return wait
