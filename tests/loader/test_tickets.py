"""Questions with a number: handed over at once, answered later, and bounded whoever asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloister.ipc import PayloadError, TooManyCalls, values
from cloister.loader import tickets
from cloister.loader.tickets import Tickets


class Bench:
    """Answers that come when a test says so; what was told, and how the sandbox ended."""

    def __init__(self) -> None:
        self.tickets = Tickets(self.ask)
        self.tickets.tell, self.tickets.end = self.tell, lambda reason: self.ended.append(reason)
        self.reads = True
        self.answers: dict[bytes, asyncio.Future[bytes]] = {}
        self.told: list[Any] = []
        self.ended: list[str] = []

    async def ask(self, method: str, payload: bytes, channel: Any) -> bytes:
        """One of them."""
        self.answers[payload] = asyncio.get_running_loop().create_future()
        return await self.answers[payload]

    def tell(self, topic: str, payload: bytes) -> bool:
        """The sandbox hears of it, if it reads."""
        self.told.append(values.loads(payload, trusted=True)[:2])
        return self.reads

    async def take(self, ticket: object, payload: object = b"x", method: object = "sleep") -> None:
        """A sandbox asks."""
        self.tickets.take(ticket, method, payload, None)  # type: ignore[arg-type]
        await asyncio.sleep(0)


async def test_each_is_told_once_in_the_order_in_which_it_was_answered() -> None:
    bench = Bench()
    await bench.take(1, b"a")
    await bench.take(2, b"b")
    bench.answers[b"b"].set_result(b"")
    await asyncio.sleep(0)
    bench.answers[b"a"].set_exception(ValueError("no"))
    await asyncio.sleep(0)
    assert bench.told == [[2, True], [1, False]]
    await asyncio.sleep(0)
    assert (bench.tickets.held.questions, bench.tickets.held.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("ticket", "payload", "method"), [("1", b"", "m"), (True, b"", "m"), (2, "", "m"), (2, b"", 0)]
)
async def test_what_is_no_question_is_refused(ticket: object, payload: object, method: object) -> None:
    bench = Bench()
    with pytest.raises(PayloadError):
        await bench.take(ticket, payload, method)
    assert bench.tickets.held.questions == 0


async def test_a_number_is_one_questions_until_it_was_answered() -> None:
    bench = Bench()
    await bench.take(1)
    with pytest.raises(PayloadError):
        await bench.take(1)
    bench.tickets.forget(1)
    await bench.take(1)
    assert bench.told == []  # of the one that was forgotten, which would have taken the other along
    bench.tickets.forget("nonsense")
    bench.tickets.close()
    await asyncio.sleep(0)
    assert bench.told == [[1, False]]


async def test_they_are_bounded_by_number_and_by_bytes_for_all_runs_of_a_sandbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tickets, "MOST", 3)
    monkeypatch.setattr(tickets, "MOST_BYTES", 100)
    one, other = Bench(), Bench()
    other.tickets.held = one.tickets.held
    await one.take(1)
    await one.take(2, b"y" * 200)
    with pytest.raises(TooManyCalls):
        await other.take(1)
    one.tickets.forget(2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await other.take(1)
    await other.take(2)
    with pytest.raises(TooManyCalls):
        await one.take(3)
    one.tickets.close()
    other.tickets.close()


async def test_a_sandbox_that_does_not_read_what_it_has_asked_for_is_ended() -> None:
    """Or its run would wait for ever."""
    bench = Bench()
    bench.reads = False
    await bench.take(1)
    bench.answers[b"x"].set_result(b"")
    await asyncio.sleep(0)
    assert bench.ended == ["the sandbox was ended: it does not read what its run has asked for"]
