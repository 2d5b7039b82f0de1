"""The order in which a run learns how its steps ended, as seen by a host that asks meanwhile whether it only waits."""

from __future__ import annotations

import asyncio

from cloister.sandbox.guest import scope
from cloister.sandbox.guest.outcomes import NOBODY, Outcomes


async def test_a_run_that_is_about_to_be_told_something_does_not_only_wait() -> None:
    """Not in any turn of the loop: who is put aside between two outcomes would go on with its next deadline only."""
    loop, run = asyncio.get_running_loop(), scope.Run()
    outcomes = Outcomes([["sleep", f"s{number}", 1, "done", 0, b"", None] for number in range(5)], run)
    seen: list[bool] = []
    meanwhile: list[bool] = []

    def ask() -> None:
        seen.append(run.only_waits(loop))
        loop.call_soon(ask, context=NOBODY)

    async def program() -> None:
        scope.current_run.set(run)
        for number in range(5):
            await outcomes.recorded(("sleep", f"s{number}", 1))
        meanwhile.extend(seen)
        rest.set_result(None)
        await asyncio.Event().wait()

    rest = loop.create_future()
    task = asyncio.create_task(program())
    await asyncio.sleep(0)
    loop.call_soon(ask, context=NOBODY)
    await rest
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(meanwhile) > 5
    assert not any(meanwhile)
    assert seen[-1]
    task.cancel()
