"""A run's journal as a sandbox asks it: a real engine behind it, and no sandbox before it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import Engine, WorkflowEntrypoint, current_attempt
from cloister.ipc import CapabilityError, Connection, PayloadError, values
from cloister.ipc.peer import Peer
from cloister.loader.journal import JournalTarget

if TYPE_CHECKING:
    from pathlib import Path


class Line:
    """Where calls on behalf of a step arrive: each is told which id the next instance has that the step creates."""

    def scan(self, payload: bytes) -> None:
        values.scan(payload)

    async def forward(self, target: int, method: str, payload: bytes) -> bytes:
        attempt = current_attempt()
        assert attempt is not None
        return attempt.derived_id().encode()


async def test_a_step_that_takes_long_gives_each_instance_that_it_creates_another_id(tmp_path: Path) -> None:
    """However many steps come and go meanwhile: an id that comes again would create nothing."""

    class Asking(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> list[str]:
            target, line = JournalTarget(step.journal), Line()

            async def ask(method: str, *arguments: object) -> bytes:
                return await target.answer(method, values.dumps(arguments), line)  # type: ignore[arg-type]

            ids = [await ask("through", "1 1 long", 0, "create", b"")]
            for number in range(1, 1101):
                await ask("through", f"1 {number} short", 0, "create", b"")
                await ask("settle", "short", number, 1, None, b"\xc0", None, False)
            ids.append(await ask("through", "1 1 long", 0, "create", b""))
            return [name.decode() for name in ids]

    async with Engine(tmp_path / "app.db", synchronous="normal") as engine:
        first, second = await (await engine.workflow("w", Asking).create()).result()
        assert first != second


@pytest.mark.parametrize("method", ["through", "after", "later", "forget", "sleep", "attempt"])
async def test_a_question_of_another_form_is_refused_in_words_of_the_questions(method: str, tmp_path: Path) -> None:
    """Whatever a sandbox sends: nothing is told of how the host is written."""

    class Asking(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> list[str]:
            target, found = JournalTarget(step.journal), []
            for arguments in ([], [None] * 9):
                with pytest.raises(PayloadError, match=f"^{method} takes ") as refused:
                    await target.answer(method, values.dumps(arguments), Line())  # type: ignore[arg-type]
                found.append(str(refused.value))
            return found

    async with Engine(tmp_path / "app.db", synchronous="normal") as engine:
        for words in await (await engine.workflow("w", Asking).create()).result():
            assert "JournalTarget" not in words


@pytest.mark.parametrize(
    "asked",
    [
        [None, "settle", b""], [[None], "settle", b""], [[["w", 1, "t"]], "settle", b""], [[], "through", b""],
        [[["w", 1, "t", None, "1 1 inside"]], "", b""], [[], "after", b""], [[], "settle", None], [[], 1, b""],
    ],
)  # fmt: skip
async def test_what_is_said_to_have_been_taken_is_read_strictly(asked: list[Any], tmp_path: Path) -> None:
    """And nothing is asked after it that is no question of the run's."""

    class Asking(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            with pytest.raises((PayloadError, CapabilityError)):
                await JournalTarget(step.journal).answer("after", values.dumps(asked), Line())  # type: ignore[arg-type]

    async with Engine(tmp_path / "app.db", synchronous="normal") as engine:
        instance = await engine.workflow("w", Asking).create()
        await instance.result()
        assert (await instance.status())["steps"] == []


async def test_outcomes_are_told_in_the_order_in_which_they_are_recorded(tmp_path: Path) -> None:
    """Whatever each is: which of two came first is what a race is decided by, and again in each replay."""
    told: list[str] = []

    class Asking(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            loop = asyncio.get_running_loop()

            def to_guest(frame: bytes) -> None:
                loop.call_soon(guest.deliver, frame)

            def to_host(frame: bytes) -> None:
                loop.call_soon(host.deliver, frame)

            host, guest = Peer(Connection(), to_guest), Peer(Connection(greeted=True), to_host)
            host.deliver(guest.connection.hello(b""))
            host.exports.grant(JournalTarget(step.journal))

            async def ask(name: str, method: str, *arguments: object) -> None:
                await guest.call(0, method, values.dumps([name, 1, *arguments]))
                told.append(name)

            def result(name: str) -> Any:
                return ask(name, "settle", 1, None, b"\xc0", None, True, None, None)

            await asyncio.gather(
                *(
                    one
                    for n in range(9)
                    for one in (
                        result(f"a{n}"),
                        ask(f"b{n}", "keep", b"\xc0"),
                        ask(f"c{n}", "sleep", 0, None),
                        result(f"d{n}"),
                    )
                )
            )

    async with Engine(tmp_path / "app.db", synchronous="normal") as engine:
        instance = await engine.workflow("w", Asking).create()
        await instance.result()
        assert told == [step["name"] for step in (await instance.status())["steps"]]
