"""What a tenant's process says where the guest's own code would have said something else: it is checked by the host.

Each program here has put a function of its own in the place of what hands its answers over.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Encoded, Rehearsal
from cloister.ipc import RpcTarget, values
from cloister.loader import LimitExceeded, Limits, TailLine, TenantError, WorkerStub
from cloister.loader.bindings import Consumer, Delivering, Queue, QueueStore
from cloister.loader.http import answers
from cloister.loader.tails import Tails
from cloister.sandbox import LogLine

Make = Callable[..., WorkerStub]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]
FORGED = "2026-11-28 CRITICAL all is lost"

LIAR = """
from workers import RpcTarget, WorkerEntrypoint

class Default(WorkerEntrypoint):
    def fetch(self): pass
    def email(self): pass
    def queue(self): pass

class Said(RpcTarget):
    attributes = {}
    def rpc_attributes(self):
        return self.attributes

class Response(Said):
    attributes = {"workers.class": "Response", "status": 101, "status_text": "", "headers": [], "body": None,
                  "web_socket": True}
    leads_to = 5
    def connect(self, line):
        return self.leads_to

async def handle(worker, name, event, subject, props):
    return answer()

def lie():
    from cloister.sandbox.guest.worker import Worker
    Worker._handle = handle

lie()
"""
LEADS_NOWHERE = "def answer(): return Response()"
LEADS_TO_NUMBERS = """
class Line(Said):
    attributes = {"receive": 5, "close": 6}
Response.leads_to = Line()
def answer(): return Response()
"""
CONNECTS_BY_A_NUMBER = """
Response.attributes = {**Response.attributes, "connect": 5}
def answer(): return Response()
"""


@pytest.mark.parametrize("lie", [LEADS_NOWHERE, LEADS_TO_NUMBERS, CONNECTS_BY_A_NUMBER])
async def test_a_web_socket_that_leads_nowhere_is_closed(worker: Make, lie: str) -> None:
    """Whoever speaks on it is told so, and nothing of it is left when the response is closed."""
    stub = worker(LIAR + lie)
    async with await stub.get_entrypoint().fetch("https://a.example/", headers={"upgrade": "websocket"}) as response:
        assert response.web_socket is not None
        with pytest.raises(ConnectionResetError, match="the web socket was closed"):
            await response.web_socket.send("hello")
    worker_of = stub._desk.warm(stub._key)
    assert worker_of is not None
    assert worker_of.users == 0


async def test_a_body_whose_next_piece_is_asked_of_a_number(worker: Make) -> None:
    """An attribute of the name does not stand in the way of the question, which has no answer."""
    head = {"workers.class": "Response", "status": 200, "status_text": "", "headers": [], "next": 5}
    lie = f"Response.attributes = {head!r}"
    response = await worker(f"{LIAR}{lie}\n{LEADS_NOWHERE}").get_entrypoint().fetch("https://a.example/")
    with pytest.raises(TenantError, match="no method 'next'"):
        await response.bytes()


@pytest.mark.parametrize("piece", [5, {"done": False, "value": "text"}, {"done": 1, "value": b""}])
async def test_a_body_of_something_else_than_bytes_is_the_tenants_error(worker: Make, piece: object) -> None:
    """And not one of whoever reads it."""
    head = {"workers.class": "Response", "status": 200, "status_text": "", "headers": []}
    lie = f"Response.attributes = {head!r}\nResponse.next = lambda self: {piece!r}"
    response = await worker(f"{LIAR}{lie}\n{LEADS_NOWHERE}").get_entrypoint().fetch("https://a.example/")
    with pytest.raises(TenantError, match="Malformed: the body of a response: a piece of a body that is"):
        await response.bytes()


async def test_a_web_socket_that_is_never_connected_keeps_nobody(worker: Make) -> None:
    """Longer than a call may take: neither who speaks on it nor who listens to it."""
    lie = "import asyncio\nasync def never(self, line): await asyncio.Event().wait()\nResponse.connect = never\n"
    stub = worker(f"{LIAR}{lie}{LEADS_NOWHERE}")

    async def speak(seconds: int) -> None:
        entry = stub.get_entrypoint(limits=Limits(wall_ms=1000 * seconds))
        async with await entry.fetch("https://a.example/", headers={"upgrade": "websocket"}) as response:
            assert response.web_socket is not None
            with pytest.raises(ConnectionResetError, match=f"not connected within {seconds} s"):
                await response.web_socket.send("hello")
            with pytest.raises(LimitExceeded, match=f"not connected within {seconds} s"):
                await anext(response.web_socket)

    for seconds in (2, 20):  # a machine that is too busy to answer the request in time has more of it
        try:
            await speak(seconds)
            break
        except LimitExceeded:
            if seconds == 20:
                raise


async def test_an_exception_without_a_name_is_called_something(worker: Make) -> None:
    """An error that says nothing at all would help nobody."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            raise type("", (Exception,), {})()
    """
    with pytest.raises(TenantError, match="Exception"):
        await worker(source).get_entrypoint().go()


async def test_a_body_that_travels_with_its_head_is_short(worker: Make) -> None:
    """A long one is asked for piece by piece, or the host would hold it for whoever it is for."""
    head = {"workers.class": "Response", "status": 200, "status_text": "", "headers": []}
    lie = f"Response.attributes = {{**{head!r}, 'body': bytes(300_000)}}"
    with pytest.raises(TenantError, match="a body of 300,000 bytes"):
        await worker(f"{LIAR}{lie}\n{LEADS_NOWHERE}").get_entrypoint().fetch("https://a.example/")


MAIL = {"from": "ann@a.example", "to": "bob@b.example", "raw": b"\r\n"}
DECIDED: dict[str, Any] = {"rejected": None, "forwarded": [], "replied": []}


@pytest.mark.parametrize(
    "decided",
    [
        5,
        {},
        {**DECIDED, "rejected": 5},
        {**DECIDED, "forwarded": "carl@c.example"},
        {**DECIDED, "forwarded": [{"to": "carl@c.example"}]},
        {**DECIDED, "forwarded": [{"to": "c@c.example\r\nBcc: all@c.example", "headers": []}]},
        {**DECIDED, "forwarded": [{"to": "c@c.example", "headers": [["x-by", "me\r\nBcc: all@c.example"]]}]},
        {**DECIDED, "forwarded": [{"to": "c@c.example", "headers": [["x-by"]]}]},
        {**DECIDED, "replied": [{"from": "a", "to": "b", "raw": "text"}]},
        {**DECIDED, "replied": [{"from": "a\n", "to": "b", "raw": b""}]},
    ],
)
async def test_a_decision_about_a_mail_that_is_none_is_the_tenants_error(worker: Make, decided: object) -> None:
    """What the host is to act on has the form that it is promised in, and no address or header is two."""
    entry = worker(f"{LIAR}def answer(): return {decided!r}").get_entrypoint()
    with pytest.raises(TenantError, match=r"email\(\) gave"):
        await entry.handle("email", MAIL)


async def test_a_reason_of_several_lines_is_one(worker: Make) -> None:
    """It goes into an answer of a protocol that has one line for it."""
    decided = {**DECIDED, "rejected": "no\r\n250 ok"}
    entry = worker(f"{LIAR}def answer(): return {decided!r}").get_entrypoint()
    assert (await entry.handle("email", MAIL))["rejected"] == "no  250 ok"


async def test_what_a_consumer_has_raised_is_no_line_of_the_hosts_log(
    worker: Make, tmp_path: Path, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is: it is shown, and cut, and moves no cursor."""
    error = f"bad\n{FORGED}\x1b[2J" + "x" * 100_000
    entry = worker(f"{LIAR}def answer(): return {{'again': {{}}, 'error': {error!r}}}").get_entrypoint()
    caplog.set_level(logging.WARNING, "cloister.queue")
    async with (
        QueueStore(tmp_path / "queues.db") as store,
        Consumer(store, "jobs", lambda _: entry, delivering=Delivering(max_wait_s=0.0)),
    ):
        await Queue(store, "a", "jobs").send("work")
        await eventually(lambda: "a consumer raised" in caplog.text)
    _shown_as_quoted(caplog.messages[0])


async def test_what_an_invocation_has_raised_is_no_line_of_the_hosts_log(
    worker: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is what a client has asked for."""
    caplog.set_level(logging.WARNING, "cloister.http")
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            raise ValueError("bad" + chr(10) + {FORGED!r})
    """
    with pytest.raises(TenantError) as raised:
        await worker(source).get_entrypoint().go()
    answers.to(raised.value, f"/\n{FORGED}")
    _shown_as_quoted(caplog.messages[0])


async def test_what_the_host_was_asked_in_vain_is_no_line_of_its_log(
    worker: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """An error may repeat what was asked for, and its traceback ends with that."""

    class Shelf(RpcTarget):
        def find(self, name: str) -> None:
            raise LookupError(f"there is no {name}")

    caplog.set_level(logging.INFO, "cloister.ipc")
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            await self.env.SHELF.find("tea" + chr(10) + {FORGED!r} + chr(27) + "[2J")
    """
    with pytest.raises(TenantError):
        await worker(source, env={"SHELF": Shelf()}).get_entrypoint().go()
    (record,) = (record for record in caplog.records if "'find' raised" in record.message)
    _shown_as_quoted(logging.Formatter().format(record))
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


async def test_what_a_tail_has_raised_is_no_line_of_the_hosts_log(
    worker: Make, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a tenant's as well, if it is an entrypoint."""
    watcher = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def tail(self, events):
            raise ValueError("bad" + chr(10) + {FORGED!r} + chr(27) + "[2J")
    """
    watched = worker(f"{LIAR}def answer(): return []", tails=(worker(watcher).get_entrypoint(),))
    await watched.get_entrypoint().handle("queue", {"queue": "jobs", "messages": []})
    await eventually(lambda: "a tail raised" in caplog.text)
    (record,) = (record for record in caplog.records if record.message == "a tail raised")
    _shown_as_quoted(logging.Formatter().format(record))


def _shown_as_quoted(message: str) -> None:
    first, *others = message.split("\n")
    assert FORGED not in first
    assert any(FORGED in line for line in others)
    assert all(line.startswith("    | ") for line in others)
    assert "\x1b" not in message
    assert len(message) < 20_000


@pytest.mark.parametrize("invocation", [-1, 2, 2**63])
async def test_a_line_of_an_invocation_that_never_was_is_of_none(invocation: int) -> None:
    """The host knows how many there were, whatever the process says."""
    heard: list[Any] = []
    tails = Tails("a", 1, (), (heard.append,), lambda: 0.0)

    async def answer() -> bytes:
        tails.hear(LogLine("stdout", "one", 1, 0))
        tails.hear(LogLine("stdout", "other", invocation, 0))
        return b""

    await tails.follow(None, "go", answer())
    lines = [told for told in heard if isinstance(told, TailLine)]
    assert [(line.text, line.invocation) for line in lines] == [("one", 1), ("other", 0)]


@pytest.mark.parametrize(
    "report",
    [
        None,
        [],
        {"missed": [], "ended": False},
        {"missed": [], "ended": 0, "error": None},
        {"missed": [["do", "a"]], "ended": False, "error": None},
        {"missed": [["do", 1, 1]], "ended": False, "error": None},
        {"missed": {}, "ended": False, "error": None},
        {"missed": [], "ended": True, "error": 5},
    ],
)
def test_a_rehearsal_of_which_nothing_is_known_does_not_fit(report: object) -> None:
    """New code takes over an instance only where it was seen to fit."""
    found = Rehearsal.read(Encoded(values.dumps(report)))
    assert not found.fits
    assert "cannot be read" in found.words
