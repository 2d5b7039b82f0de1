"""Runs that fall silent, by a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.ipc import values
from cloister.loader.journal import JournalTarget
from cloister.loader.silence import SILENCE, Silence

if TYPE_CHECKING:
    from pathlib import Path


class Counted:
    """Counts the looks at it."""

    def __init__(self) -> None:
        self.looks = 0

    def look(self) -> None:
        self.looks += 1


def test_one_timer_is_for_all_and_there_is_none_for_nobody() -> None:
    """It is set anew as long as there is somebody to look at."""
    timers: list[tuple[float, Callable[[], None]]] = []
    silence = Silence(lambda seconds, what: timers.append((seconds, what)))
    one, other = Counted(), Counted()
    silence.watch(one)
    silence.watch(other)
    assert [seconds for seconds, _ in timers] == [SILENCE]
    timers.pop()[1]()
    silence.forget(one)
    assert [seconds for seconds, _ in timers] == [SILENCE]
    timers.pop()[1]()
    assert (one.looks, other.looks) == (1, 2)
    silence.forget(other)
    timers.pop()[1]()
    assert timers == []
    silence.watch(one)
    assert len(timers) == 1


async def test_a_run_is_ended_once_it_is_silent_for_longer_than_its_steps_may_take(tmp_path: Path) -> None:
    """Not before, nor while it waits for the engine; a step that may take longer counts."""

    class Asking(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> list[str]:
            target, now = JournalTarget(step.journal), 0.0
            ended: list[str] = []
            target._now = lambda: now
            target.end_with(ended.append)
            target._heard = 0.0

            async def ask(method: str, *arguments: object) -> bytes:
                return await target.answer(method, values.dumps(arguments), Line())  # type: ignore[arg-type]

            now = 600.0 + SILENCE
            target.look()
            assert ended == []
            await ask("configure", {"timeout": "20 minutes"})
            now += 1200.0 + SILENCE
            target._asking = 1
            target.look()
            now += 1200.0 + SILENCE
            target._asking = 0
            target.look()
            assert ended == []
            now += 1.0
            target.look()
            return ended

    class Line:
        def scan(self, payload: bytes) -> None:
            values.scan(payload)

    async with Engine(tmp_path / "app.db", synchronous="normal") as engine:
        (reason,) = await (await engine.workflow("w", Asking).create()).result()
        assert "silent for 1261 s" in reason
