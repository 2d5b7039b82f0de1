"""What runs ask, in a connection of few calls: nothing of it is refused, and nothing that the program calls itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from cloister.ipc import Connection, Peer, TooManyCalls, values
from cloister.ipc.stubs import Channel
from cloister.sandbox.guest import questions
from cloister.sandbox.guest.main import GuestPeer

Until = Callable[[Callable[[], object]], Any]
Take = Callable[..., Any]


class Host:
    """A journal that answers when a test says so, and a binding, both at the other end of a connection."""

    attributes: ClassVar[dict[str, Any]] = {}

    def __init__(self, calls: int) -> None:
        loop = asyncio.get_running_loop()
        self.asked: dict[object, asyncio.Future[bytes]] = {}
        self.tickets: dict[int, object] = {}
        self.forgotten: list[int] = []
        self.calling = self.most_calling = 0
        self.gate = asyncio.Event()

        def send(frame: bytes) -> None:
            loop.call_soon(self._hear, frame)

        def ask(frame: bytes) -> None:
            loop.call_soon(self.peer.deliver, frame)

        self.peer = Peer(Connection(max_calls=calls), send, trusted=True)
        self.guest = GuestPeer(Connection(greeted=True, max_calls=calls), ask)
        self.peer.deliver(self.guest.connection.hello(b""))
        self.target = self.peer.exports.grant(self)

    def _hear(self, frame: bytes) -> None:
        self.guest.deliver(frame)
        self.guest.stir()

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """A question, with a ticket or not, or a call of the binding."""
        given = values.loads(payload)
        if method == "later":
            ticket, method, payload = given
            self.tickets[ticket] = question = values.loads(payload)
            self.asked[question] = future = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda future: self._tell(ticket, future.result()))
            return values.dumps(None)
        if method == "forget":
            self.forgotten.append(self.tickets[given[0]])  # type: ignore[arg-type]
            return values.dumps(None)
        if method == "binding":
            self.calling += 1
            self.most_calling = max(self.calling, self.most_calling)
            await self.gate.wait()
            self.calling -= 1
            return payload
        self.asked[given] = future = asyncio.get_running_loop().create_future()
        result: bytes = await future
        return result

    def _tell(self, ticket: int, answer: bytes) -> None:
        self.peer.note("answered", values.dumps([ticket, True, answer]))

    def settle(self) -> None:
        """Answer what is asked."""
        for question, future in self.asked.items():
            if not future.done():
                future.set_result(values.dumps(question))

    def ask(self, question: object) -> asyncio.Task[bytes]:
        """What a run does."""
        return asyncio.ensure_future(self.guest.questions.ask(self.target, "ask", values.dumps, question))

    def call(self, number: object) -> asyncio.Task[bytes]:
        """What a program does."""
        return asyncio.ensure_future(self.guest.call(self.target, "binding", values.dumps(number)))


@pytest.mark.parametrize("calls", [1, 2, 4, 100, 1024])
async def test_neither_questions_nor_calls_are_refused_for_each_others_sake(calls: int, until: Until) -> None:
    """As many calls as there may be, begun among questions that nobody answers for now."""
    host = Host(calls)
    asking = [host.ask(n) for n in range(300)]
    calling = [host.call(n) for n in range(calls)]
    asking += [host.ask(n) for n in range(300, 600)]
    for _ in range(20):
        await asyncio.sleep(0)
    calling[0].cancel()
    calling[0] = host.call(0)
    host.gate.set()
    assert await asyncio.gather(*calling) == [values.dumps(n) for n in range(calls)]
    await until(lambda: len(host.asked) == 600)
    host.settle()
    assert await asyncio.gather(*asking) == [values.dumps(n) for n in range(600)]
    assert host.guest.connection.calls_in_flight == 0


async def test_one_call_more_than_a_program_may_make_is_refused(until: Until) -> None:
    """However many questions are in flight."""
    host = Host(4)
    asking = [host.ask(n) for n in range(5)]
    await until(lambda: len(host.asked) == 5)
    calling = [host.call(n) for n in range(4)]
    with pytest.raises(TooManyCalls):
        await host.call(4)
    host.settle()
    await asyncio.gather(*asking)
    await until(lambda: host.calling == 4)
    host.gate.set()
    await asyncio.gather(*calling)
    assert host.most_calling == 4


async def test_what_waits_for_long_does_not_take_up_the_only_call(until: Until) -> None:
    host = Host(1)
    long = host.ask("long")
    await until(lambda: host.asked)
    host.gate.set()
    assert await host.call(1) == values.dumps(1)
    host.settle()
    await long


async def test_a_question_that_waited_for_calls_goes_on_when_they_end(until: Until) -> None:
    """Though another one is in flight that nobody answers."""
    host = Host(4)
    long = host.ask("long")
    await until(lambda: "long" in host.asked)
    calling = [host.call(n) for n in range(3)]
    await until(lambda: host.calling == 3)
    short = host.ask("short")
    await asyncio.sleep(0)
    host.gate.set()
    await asyncio.gather(*calling)
    await until(lambda: "short" in host.asked)
    host.settle()
    await asyncio.gather(long, short)


async def test_who_waits_in_line_may_give_up_at_any_moment(until: Until) -> None:
    """Also in the very turn in which it would be theirs; and the host hears of all that it was asked."""
    for turns in range(12):
        host = Host(1)
        asking = [host.ask(n) for n in range(40)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asking[::2]:
            task.cancel()
        ended = await asyncio.gather(*asking[::2], return_exceptions=True)
        assert {type(error) for error in ended} == {asyncio.CancelledError}, turns
        await heard_of_all(host, until)
        host.settle()
        assert await asyncio.gather(*asking[1::2]) == [values.dumps(n) for n in range(1, 40, 2)]


async def heard_of_all(host: Host, until: Until) -> None:
    """Of the questions with odd numbers, and of those with even ones that nobody waits for them any longer."""
    await until(lambda: set(range(1, 40, 2)) <= set(host.asked))
    await until(lambda: set(host.forgotten) == {n for n in range(0, 40, 2) if n in host.asked})


async def test_the_host_is_asked_no_more_at_once_than_it_answers(until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it was told to forget count until it has heard that."""
    monkeypatch.setattr(questions, "_MOST", 5)
    host = Host(4)
    asking = [host.ask(n) for n in range(20)]
    most = 0
    for round_ in range(20):
        await until(lambda: any(not future.done() for future in host.asked.values()) or all(t.done() for t in asking))
        open_ = [future for future in host.asked.values() if not future.done()]
        most = max(most, len(open_))
        if round_ == 3:
            asking[-1].cancel()
        host.settle()
    await asyncio.gather(*asking, return_exceptions=True)
    assert 0 < most <= 6  # one of them is a call


def test_it_is_fewer_than_the_host_answers() -> None:
    from cloister.loader import tickets

    assert questions._MOST < tickets.MOST
    assert questions._MOST_BYTES < tickets.MOST_BYTES
