"""Tails: what is told of each invocation, to whom, and that telling it costs nobody anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from cloister.engine import WorkflowEntrypoint
from cloister.ipc import TooManyCalls, values
from cloister.loader import (
    LimitExceeded,
    Limits,
    Loader,
    TailEvent,
    TailLine,
    TailStart,
    TenantError,
    WorkerCode,
    WorkerStub,
    courier,
    wrap_workflow_binding,
)
from cloister.loader import create_dynamic_workflow_entrypoint as dynamic
from cloister.loader.courier import MOST_WAITING
from cloister.loader.tails import MOST_BYTES, MOST_LINES, Tails, Told
from cloister.sandbox import LogLine

Make = Callable[..., WorkerStub]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]

SOURCE = """
import asyncio, logging
from workers import Response, WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def greet(self, name):
        print(f"greeting {name}")
        logging.warning("careful")
        await asyncio.sleep(0)
        return f"Hello {name}"

    async def fails(self):
        print("before")
        raise ValueError("bad")

    def spins(self):
        print("round and round")
        while True:
            pass

    async def waits(self, begun=None):
        print("waiting")
        if begun:
            await begun()
        await asyncio.sleep(3600)

    def prints(self, count, size):
        for number in range(count):
            print(str(number).rjust(size))

    async def fetch(self, request):
        print("fetched")
        return Response("x")
"""


async def test_a_tail_gets_one_event_for_each_invocation(worker: Make, eventually: Eventually) -> None:
    """After the answer: what was called, how it ended, what it printed and how long it took."""
    events: list[TailEvent] = []
    stub = worker(SOURCE, tails=(events.append,))
    entry = stub.get_entrypoint()
    assert await entry.greet("Alice") == "Hello Alice"
    assert (await (await entry.fetch("https://a.example/")).text()) == "x"
    await eventually(lambda: len(events) == 2)
    first, second = events
    assert (first.tenant_id, first.method, first.outcome, first.entrypoint) == (stub.tenant_id, "greet", "ok", None)
    assert [(line.level, line.text) for line in first.logs] == [
        ("stdout", "greeting Alice"),
        ("warning", "root: careful"),
    ]
    assert first.wall_ms > 0
    assert (first.error, first.limit, first.left_out) == (None, "", 0)
    assert (second.method, [line.text for line in second.logs]) == ("fetch", ["fetched"])


async def test_lines_belong_to_the_invocation_that_printed_them(worker: Make, eventually: Eventually) -> None:
    """Also where many go on at once."""
    events: list[TailEvent] = []
    entry = worker(SOURCE, tails=(events.append,)).get_entrypoint()
    names = [f"n{number}" for number in range(20)]
    await asyncio.gather(*(entry.greet(name) for name in names))
    await eventually(lambda: len(events) == 20)
    assert sorted(event.logs[0].text for event in events) == sorted(f"greeting {name}" for name in names)
    assert all(len(event.logs) == 2 for event in events)


async def test_a_call_that_was_never_sent_is_not_counted(worker: Make, eventually: Eventually) -> None:
    """What comes after it still has its own lines."""
    events: list[TailEvent] = []
    entry = worker(SOURCE, tails=(events.append,)).get_entrypoint()
    with pytest.raises(Exception, match="cannot be sent"):
        await entry.greet(object())
    await entry.greet("Bob")
    await eventually(lambda: events)
    assert [(event.method, event.logs[0].text) for event in events] == [("greet", "greeting Bob")]


async def test_failures_limits_and_ends_are_told(worker: Make, eventually: Eventually) -> None:
    """With class, message and the tenant's own lines, or the limit that was crossed."""
    events: list[TailEvent] = []
    entry = worker(SOURCE, tails=(events.append,), limits=Limits(cpu_ms=100)).get_entrypoint()
    with pytest.raises(TenantError):
        await entry.fails()
    begun = asyncio.Event()
    asked = asyncio.ensure_future(entry.waits(lambda: begun.set()))
    await begun.wait()
    asked.cancel()
    await asyncio.wait({asked})
    await entry.greet("Alice")  # by its answer the other call has been cancelled over there
    with pytest.raises(LimitExceeded):
        await entry.spins()
    await eventually(lambda: len(events) == 4)
    failed, canceled, _, ended = events
    assert failed.outcome == "exception"
    assert failed.error is not None
    assert failed.error[:2] == ("ValueError", "bad")
    assert 'raise ValueError("bad")' in failed.error[2]
    assert (canceled.outcome, canceled.error) == ("canceled", None)
    assert (ended.outcome, ended.limit) == ("limit", "the sandbox exceeded 100 ms of CPU")
    assert ended.cpu_ms >= 100


async def test_an_event_is_bounded(worker: Make, eventually: Eventually) -> None:
    """In lines and in bytes; what is left out is counted."""
    events: list[TailEvent] = []
    entry = worker(SOURCE, tails=(events.append,)).get_entrypoint()
    await entry.prints(MOST_LINES + 10, 1)
    await entry.prints(100, 4000)
    await eventually(lambda: len(events) == 2)
    assert (len(events[0].logs), events[0].left_out) == (MOST_LINES, 10)
    assert sum(len(line.text) for line in events[1].logs) <= MOST_BYTES
    assert len(events[1].logs) + events[1].left_out == 100


async def test_a_failing_tail_fails_nothing(worker: Make, eventually: Eventually, caplog: Any) -> None:
    """Whether it raises, is asynchronous and raises, or never ends: others hear, and the answer is not late."""
    caplog.set_level(logging.ERROR, "cloister.tail")
    events: list[TailEvent] = []
    hang = asyncio.Event()

    def broken(_: TailEvent) -> None:
        raise RuntimeError("broken tail")

    async def broken_later(_: TailEvent) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("broken later")

    async def hangs(_: TailEvent) -> None:
        await hang.wait()

    entry = worker(SOURCE, tails=(broken, broken_later, hangs, events.append)).get_entrypoint()
    assert await entry.greet("Alice") == "Hello Alice"
    assert await entry.greet("Bob") == "Hello Bob"
    await eventually(lambda: len(events) == 2 and "broken later" in caplog.text)
    assert "broken tail" in caplog.text
    hang.set()


async def test_what_a_slow_tail_does_not_take_is_bounded(eventually: Eventually, caplog: Any) -> None:
    """So many events wait; the rest are counted, and lost."""
    caplog.set_level(logging.WARNING, "cloister.tail")
    gate, told = asyncio.Event(), 0

    async def slow(_: TailEvent) -> None:
        nonlocal told
        told += 1
        await gate.wait()

    async def answer() -> bytes:
        return b""

    tails = Tails("a", 1, (slow,), (), lambda: 0.0)
    await tails.follow(None, "first", answer())
    await eventually(lambda: told == 1)
    for _ in range(MOST_WAITING + 7):
        await tails.follow(None, "more", answer())
    gate.set()
    await eventually(lambda: told == MOST_WAITING + 1)
    assert "7 events came faster than a tail took them, and were dropped" in caplog.text


class Slow:
    """An entrypoint that takes its time for the first that it is told."""

    def __init__(self) -> None:
        self.gate, self.told = asyncio.Event(), list[int]()

    async def handle(self, event: str, subject: Any) -> None:
        """As many as there were."""
        values.dumps([event, subject])  # or it could not be sent
        self.told.append(len(subject))
        await self.gate.wait()


async def _print_much(tails: Tails, first: int, invocations: int) -> None:
    for number in range(first, first + invocations):
        answer = asyncio.get_running_loop().create_future()
        following = asyncio.ensure_future(tails.follow(None, "more", answer))
        await asyncio.sleep(0)
        for _ in range(16):
            tails.hear(LogLine("info", "\U0001f600" * 8000, number, 0))
        answer.set_result(b"")
        await following


async def test_who_prints_much_is_not_lost_to_its_tail(eventually: Eventually) -> None:
    """What waits for an entrypoint is brought in as many calls as it takes."""
    slow = Slow()
    tails = Tails("a", 1, (slow,), (), lambda: 0.0)
    await _print_much(tails, 1, 1)
    await eventually(lambda: slow.told)
    await _print_much(tails, 2, 40)
    slow.gate.set()
    await eventually(lambda: sum(slow.told) == 41)


async def test_what_waits_for_a_tail_is_bounded_in_characters(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However few events it is; and all of it is given back."""
    monkeypatch.setattr(courier, "MOST_CHARACTERS", 1_000_000)
    slow = Slow()
    tails = Tails("a", 1, (slow,), (), lambda: 0.0)
    await _print_much(tails, 1, 1)
    await eventually(lambda: slow.told)
    await _print_much(tails, 2, 10)
    slow.gate.set()
    await eventually(lambda: sum(slow.told) == 8)
    await eventually(lambda: "3 events came faster than a tail took them, and were dropped" in caplog.text)
    await _print_much(tails, 12, 7)
    await eventually(lambda: sum(slow.told) == 15)


async def test_a_tenant_tails_another(worker: Make, eventually: Eventually) -> None:
    """An entrypoint with `tail(events)` gets plain events under Cloudflare's names, by props of its own."""
    source = """
    from workers import WorkerEntrypoint
    seen = []
    class Watch(WorkerEntrypoint):
        def tail(self, events):
            seen.extend([self.ctx.props.who, one.scriptName, one.outcome, one.event.rpcMethod,
                         one.logs[0].message, [error.name for error in one.exceptions]]
                        for one in events)
        def seen(self):
            return seen
    """
    watcher = worker(source)
    stub = worker(SOURCE, tails=(watcher.get_entrypoint("Watch", props={"who": "me"}),))
    with pytest.raises(TenantError):
        await stub.get_entrypoint().fails()

    async def heard() -> bool:
        return bool(await watcher.get_entrypoint("Watch").seen())

    await eventually(heard)
    assert await watcher.get_entrypoint("Watch").seen() == [
        ["me", stub.tenant_id, "exception", "fails", ["before"], ["ValueError"]]
    ]


async def test_tails_that_tail_one_another_come_to_an_end(
    loader: Loader, tenant: str, code: Any, eventually: Eventually
) -> None:
    """Taking events is no invocation that anybody is told of."""
    source = (
        SOURCE
        + "\n    async def tail(self, events):\n        await self.env.TOLD([one.event.rpcMethod for one in events])\n"
    )
    told: list[list[str]] = []

    def tell(methods: list[str]) -> None:
        told.append(methods)

    def make() -> WorkerCode:
        own = loader.get(tenant, make).get_entrypoint()
        made: WorkerCode = code(source, tails=(own,), env={"TOLD": tell})
        return made

    await loader.get(tenant, make).get_entrypoint().greet("Alice")
    await eventually(lambda: told)
    await loader.get(tenant, make).get_entrypoint().greet("Bob")
    await eventually(lambda: len(told) == 2)
    assert told == [["greet"], ["greet"]]


async def test_what_a_streaming_tail_prints_is_not_told_to_it_again(
    loader: Loader, tenant: str, code: Any, eventually: Eventually
) -> None:
    """A tenant that tails itself, and prints what it hears: the host still hears of each line."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def greet(self):
            print("greeting")
        async def silent(self):
            pass
        async def tail(self, events):
            print("heard", len(events))
    """
    heard: list[str] = []

    def hear(told: Told) -> None:
        if isinstance(told, TailLine):
            heard.append(told.text)

    def make() -> WorkerCode:
        made: WorkerCode = code(source, streaming_tails=(hear, loader.get(tenant, make).get_entrypoint()))
        return made

    entry = loader.get(tenant, make).get_entrypoint()
    await entry.greet()
    await eventually(lambda: any(text.startswith("heard") for text in heard))
    for _ in range(20):
        await entry.silent()
    assert heard[0] == "greeting"
    assert 0 < len(heard) - 1 <= 21 * 3  # of each invocation a start, a line, an end; in as many pieces at most
    assert all(text.startswith("heard") for text in heard[1:])


async def test_streaming_tails_get_lines_as_they_come(worker: Make, eventually: Eventually) -> None:
    """Before the answer; also an asynchronous one, and what goes on after it."""
    heard: list[Told] = []
    later: list[Told] = []

    async def slowly(told: Told) -> None:
        await asyncio.sleep(0)
        later.append(told)

    stub = worker(SOURCE, streaming_tails=(heard.append, slowly))
    asked = asyncio.ensure_future(stub.get_entrypoint("Default").waits())
    await eventually(lambda: len(heard) == 2 and later == heard)
    start, line = heard
    assert isinstance(start, TailStart)
    assert (start.tenant_id, start.entrypoint, start.method) == (stub.tenant_id, "Default", "waits")
    assert isinstance(line, TailLine)
    assert (line.text, line.invocation) == ("waiting", start.invocation)
    asked.cancel()
    await asyncio.wait({asked})
    await eventually(lambda: later == heard and len(heard) == 3)
    end = heard[2]
    assert isinstance(end, TailEvent)
    assert (end.invocation, end.method, end.outcome, end.logs) == (start.invocation, "waits", "canceled", ())


async def test_a_streaming_tail_hears_of_each_invocation_from_its_start_to_its_end(worker: Make) -> None:
    """In order, by the time that the caller has the answer; also of a call that could not be sent."""
    heard: list[Told] = []
    entry = worker(SOURCE, streaming_tails=(heard.append,), limits=Limits(calls_in_flight=1)).get_entrypoint()
    assert await entry.greet("Alice") == "Hello Alice"
    with pytest.raises(TenantError):
        await entry.fails()
    kinds = [type(told).__name__ for told in heard]
    assert kinds == ["TailStart", "TailLine", "TailLine", "TailEvent", "TailStart", "TailLine", "TailEvent"]
    assert [told.invocation for told in heard] == [1, 1, 1, 1, 2, 2, 2]
    ends = [told for told in heard if isinstance(told, TailEvent)]
    assert [(end.outcome, end.error and end.error[0]) for end in ends] == [("ok", None), ("exception", "ValueError")]


async def test_a_call_that_was_never_sent_has_an_end_as_well(eventually: Eventually) -> None:
    """And no event of its own, since there was no invocation."""
    heard: list[Told] = []
    events: list[TailEvent] = []

    async def unsent() -> bytes:
        raise TooManyCalls("1,024 calls are in flight already")

    tails = Tails("a", 1, (events.append,), (heard.append,), lambda: 0.0)
    with pytest.raises(TooManyCalls):
        await tails.follow(None, "first", unsent())
    assert [type(told) for told in heard] == [TailStart, TailEvent]
    assert isinstance(heard[1], TailEvent)
    assert (heard[1].outcome, heard[1].error) == (
        "exception",
        ("TooManyCalls", "1,024 calls are in flight already", ""),
    )
    assert events == []


async def test_a_tenant_streams_from_another(worker: Make, eventually: Eventually) -> None:
    """The same as plain data, which says of what kind it is."""
    source = """
    from workers import WorkerEntrypoint
    heard = []
    class Default(WorkerEntrypoint):
        def tail(self, events):
            heard.extend([one.type, one.scriptName, one.invocation, one.get("outcome")] for one in events)
        def heard(self):
            return heard
    """
    watcher = worker(source).get_entrypoint()
    stub = worker(SOURCE, streaming_tails=(watcher,))
    await stub.get_entrypoint().greet("Alice")
    found: list[Any] = []

    async def all_told() -> bool:
        found[:] = await watcher.heard()
        return len(found) == 4

    await eventually(all_told)
    assert [one[:3] for one in found] == [[kind, stub.tenant_id, 1] for kind in ("onset", "log", "log", "outcome")]
    assert found[3][3] == "ok"


async def test_a_method_that_is_called_tail_is_a_method(worker: Make, eventually: Eventually) -> None:
    """A call of it is told of as of any other; taking events is told to functions, and to nobody else."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def tail(self, events):
            print("took", len(events))
            raise LookupError("nothing to do")
    """
    events: list[TailEvent] = []
    heard: list[Told] = []
    watcher = worker(source, tails=(events.append,), streaming_tails=(heard.append,))
    with pytest.raises(TenantError, match="nothing to do"):
        await watcher.get_entrypoint().tail([1, 2])
    await eventually(lambda: events)
    assert (events[0].method, events[0].outcome, [line.text for line in events[0].logs]) == (
        "tail",
        "exception",
        ["took 2"],
    )
    assert len(heard) == 3
    watched = worker(SOURCE, tails=(watcher.get_entrypoint(),))
    assert await watched.get_entrypoint().greet("Alice") == "Hello Alice"
    await eventually(lambda: len(events) == 2)
    assert (events[1].method, events[1].error and events[1].error[0]) == ("tail", "LookupError")


async def test_a_tail_that_takes_too_long_is_left_and_the_next_event_is_brought(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually, caplog: Any
) -> None:
    """It is named in the log; nobody else waits for it."""
    monkeypatch.setattr(courier, "PATIENCE", 0.01)
    told: list[str] = []

    async def slow(event: TailEvent) -> None:
        told.append(event.method)
        if event.method == "first":
            await asyncio.Event().wait()

    async def answer() -> bytes:
        return b""

    tails = Tails("a", 1, (slow,), (), lambda: 0.0)
    await tails.follow(None, "first", answer())
    await tails.follow(None, "second", answer())
    await eventually(lambda: told == ["first", "second"])
    assert "took longer than 0.01 s for what it was told" in caplog.text


@pytest.mark.parametrize("drained", [False, True])
async def test_a_loader_that_closes_lets_its_tails_hear_the_last_of_it(code: Any, drained: bool) -> None:
    """Functions that await; for as long as a drain may take."""
    told: list[str] = []
    gate = asyncio.Event()

    async def slowly(event: TailEvent) -> None:
        await gate.wait()
        told.append(event.method)

    made = code(SOURCE, tails=(slowly,))
    async with Loader(spares=0) as own:
        await own.get("a", lambda: made).get_entrypoint().greet("Alice")
        draining = asyncio.ensure_future(own.drain()) if drained else None
        asyncio.get_running_loop().call_later(0.01, gate.set)
    assert told == ["greet"]
    assert draining is None or await draining


async def test_without_tails_lines_go_to_the_hosts_log(worker: Make, caplog: Any) -> None:
    """Under the tenant's name."""
    caplog.set_level(logging.INFO, "cloister.tail")
    stub = worker(SOURCE)
    await stub.get_entrypoint().greet("Alice")
    assert f"{stub.tenant_id}: greeting Alice" in caplog.text


async def test_a_durable_run_is_told_as_one_invocation(
    loader: Loader, engine: Any, tenant: str, code: Any, eventually: Eventually
) -> None:
    """And a registered class may be derived from, to log around `run`."""
    events: list[TailEvent] = []
    log: list[str] = []
    made = code(
        """
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                print("running")
                return await step.do("double", lambda: event.payload.n * 2)
        """,
        tails=(events.append,),
    )
    base: type[WorkflowEntrypoint] = dynamic(
        lambda context: loader.get(context.metadata["tenant_id"], lambda: made).get_entrypoint("TenantWorkflow")
    )

    class Logged(base):  # type: ignore[misc, valid-type]
        async def run(self, event: Any, step: Any) -> Any:
            """With a line before and after."""
            log.append(f"{event.instance_id} begins")
            try:
                return await super().run(event, step)
            finally:
                log.append(f"{event.instance_id} ends")

    binding = wrap_workflow_binding(engine.workflow("logged", Logged), {"tenant_id": tenant})
    instance = await binding.create(id="one", params={"n": 21})
    assert await instance.result(100) == 42
    await eventually(lambda: events)
    assert (events[0].method, events[0].outcome, events[0].entrypoint) == ("run", "ok", "TenantWorkflow")
    assert [line.text for line in events[0].logs] == ["running"]
    assert log == ["one begins", "one ends"]


def test_an_event_is_a_value() -> None:
    """It can be made, compared and replaced, as by a test of somebody's own tail."""
    make = partial(TailEvent, tenant_id="a", sandbox=1, invocation=1, entrypoint=None, method="m", time_ms=0)
    event = make(outcome="ok", wall_ms=1.0, cpu_ms=0.5)
    assert event == make(outcome="ok", wall_ms=1.0, cpu_ms=0.5)
    assert event.plain()["exceptions"] == []
