"""A host that has nothing to do does nothing, however many warm tenants it has."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from cloister.loader import Loader, LoaderConfig, Quota, WorkerCode
from cloister.sandbox import Sandbox

CODE = """
from workers import WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def who(self): return "me"
"""


class Rest:
    """Whether anybody has computed, as a test says."""

    stirred = False

    def any(self) -> bool:
        return self.stirred


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Rest:
    """What loaders are told that are made from now on."""
    rest = Rest()
    for module in ("cloister.sandbox.spawner", "cloister.loader.upkeep"):
        monkeypatch.setattr(f"{module}.Stir", lambda _: rest)
    return rest


async def warm(loader: Loader, count: int) -> None:
    for number in range(count):
        code = WorkerCode(main_module="main.py", modules={"main.py": CODE})
        await loader.get(f"t{number}", lambda code=code: code).get_entrypoint().who()  # type: ignore[misc]


async def test_while_all_rest_nobody_is_measured_again(quiet: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once since the last time that somebody may have computed; then all of them once more. Once in a while all
    the same: what takes little time may take much memory."""
    measured: list[int] = []
    charged = Sandbox.charged_bytes

    def counted(sandbox: Sandbox) -> int:
        measured.append(sandbox.pid)
        return charged(sandbox)

    monkeypatch.setattr(Sandbox, "charged_bytes", counted)
    config = LoaderConfig(max_sandboxes=8, spares=0, quota=Quota(memory_bytes=512 << 20))
    async with Loader(config=config) as loader:
        loader._upkeep.stop()  # on a busy machine the first look might come while they boot
        await warm(loader, 3)
        for _ in range(5):
            loader._upkeep.stop()
            loader._upkeep._look_and_start()
        assert len(measured) == len(set(measured)) == 3
        quiet.stirred = True
        loader._upkeep.stop()
        loader._upkeep._look_and_start()
        assert len(measured) == 6
        quiet.stirred = False
        for _ in range(6):
            loader._upkeep.stop()
            loader._upkeep._look_and_start()
        assert len(measured) == 9


async def test_while_all_rest_each_is_looked_at_in_turn(quiet: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing is overlooked for long; and all of them, each time, when somebody may have computed."""
    looked: list[int] = []
    tend = Sandbox.tend

    def counted(sandbox: Sandbox) -> None:
        looked.append(sandbox.number)
        tend(sandbox)

    monkeypatch.setattr(Sandbox, "tend", counted)
    async with Loader(max_sandboxes=8, spares=0) as loader:
        spawner = loader._profiles.plain
        assert spawner._tending is not None
        spawner._tending.cancel()  # on a busy machine the first look might come while they boot
        await warm(loader, 7)

        def look() -> None:
            assert spawner._tending is not None
            spawner._tending.cancel()
            spawner._tend()

        look()
        assert len(looked) < 7
        for _ in range(5):
            look()
        assert sorted(looked) == list(range(7))
        looked.clear()
        quiet.stirred = True
        look()
        assert sorted(looked) == list(range(7))


async def test_calls_that_are_over_leave_no_timer_each(quiet: Rest) -> None:
    """What wakes the loop later is shared by all of one second."""
    async with Loader(max_sandboxes=32, spares=0) as loader:
        await warm(loader, 24)
        timers: list[Any] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert len([timer for timer in timers if not timer.cancelled()]) < 24


async def test_workers_hear_of_their_ends_each_in_an_empty_context_of_its_own() -> None:
    """Of nobody's request; and the loop of another thread, which has workers as well, keeps nobody from hearing."""
    mark = contextvars.ContextVar[int]("mark")
    mark.set(1)
    async with Loader(max_sandboxes=8, spares=0) as loader:
        await warm(loader, 2)
        contexts = [
            context
            for worker in loader._house
            for heard, context in worker.sandbox.died._callbacks
            if heard == worker._died
        ]
        assert list(map(len, contexts)) == [0, 0]
        assert contexts[0] is not contexts[1]
