"""Tails: what is told of each invocation, to whom, and that telling it costs nobody anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from cloister.engine import WorkflowEntrypoint
from cloister.loader import (
    LimitExceeded,
    Limits,
    Loader,
    TailEvent,
    TailLine,
    TenantError,
    WorkerCode,
    WorkerStub,
    wrap_workflow_binding,
)
from cloister.loader import create_dynamic_workflow_entrypoint as dynamic
from cloister.loader.tails import MOST_BYTES, MOST_LINES, MOST_WAITING, Tails

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

    async def waits(self):
        print("waiting")
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
    asked = asyncio.ensure_future(entry.waits())
    await asyncio.sleep(0.05)
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

    def hear(line: TailLine) -> None:
        heard.append(line.text)

    def make() -> WorkerCode:
        made: WorkerCode = code(source, streaming_tails=(hear, loader.get(tenant, make).get_entrypoint()))
        return made

    entry = loader.get(tenant, make).get_entrypoint()
    await entry.greet()
    await eventually(lambda: any(text.startswith("heard") for text in heard))
    for _ in range(20):
        await entry.silent()
    assert heard == ["greeting", "heard 1"]


async def test_streaming_tails_get_lines_as_they_come(worker: Make, eventually: Eventually) -> None:
    """Before the answer; also an asynchronous one, and what goes on after it."""
    lines: list[TailLine] = []
    later: list[str] = []

    async def slowly(line: TailLine) -> None:
        await asyncio.sleep(0)
        later.append(line.text)

    entry = worker(SOURCE, streaming_tails=(lines.append, slowly)).get_entrypoint()
    asked = asyncio.ensure_future(entry.waits())
    await eventually(lambda: [line.text for line in lines] == ["waiting"] and later == ["waiting"])
    asked.cancel()
    await asyncio.wait({asked})


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
    assert await instance.result(20) == 42
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
