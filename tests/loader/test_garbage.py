"""What a host makes for a run, a step and a call is gone when they are over, without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine.journal import LiveJournal
from cloister.engine.run import Run
from cloister.ipc.answer import Answer
from cloister.loader import Host
from cloister.loader.journal import JournalTarget
from cloister.sandbox.watch import Charge

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Default(WorkerEntrypoint):
        async def greet(self, name):
            return f"Hello {name}"
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            for number in range(3):
                await step.do(f"step {number}", lambda: number)
            return "done"
"""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Whatever holds itself stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(*kinds: type) -> int:
    """How many objects of these classes there are."""
    return sum(type(each) in kinds for each in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
async def test_a_run_and_a_call_leave_nothing_behind(tmp_path: Path, code: Any, eventually: Any) -> None:
    """Nor does the collector have to look for it, which took a tenth of a busy host's time."""
    async with Host(tmp_path / "app.db", get_code=lambda _: code(PROGRAM), spares=1) as host:
        kinds = (Run, LiveJournal, JournalTarget, Answer, Charge)
        before = alive(*kinds)
        for _ in range(3):
            instance = await host.workflows("t").create()
            assert await instance.result() == "done"
            assert await host.tenant("t").greet("you") == "Hello you"
        await eventually(lambda: alive(*kinds) <= before)
