"""What a tenant prints, logs and fails to catch reaches the host line by line, and no flood of it hurts anybody."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.sandbox.guest.output import FEW, LONG, MAX_LINE, MAX_LINES, MOST_UNTAKEN, Output
from cloister.sandbox.tail import LINE_LENGTH, LINES_PER_SECOND, LogLine, Tail

Boot = Callable[..., Any]
Until = Callable[[Callable[[], object]], Any]


async def test_lines_arrive_with_their_level_and_in_order(tenant: Any) -> None:
    """Standard output, standard error, logging, warnings; before the answer does."""
    source = """
    import logging, sys, warnings
    def main():
        print("one", 2)
        print("err", file=sys.stderr)
        logging.getLogger("shop").info("sold %s", "tea")
        logging.getLogger("shop").debug("not shown")
        logging.warning("low")
        try:
            1 / 0
        except ZeroDivisionError:
            logging.exception("oops")
        logging.critical("dead")
        warnings.warn("old", DeprecationWarning)
        warnings.warn("look out")
        print("no newline", end="")
    """
    await tenant.do(source)
    assert tenant.text[:4] == ["stdout: one 2", "stderr: err", "info: shop: sold tea", "warning: root: low"]
    assert tenant.text[4].startswith("error: root: oops\nTraceback")
    assert "ZeroDivisionError: division by zero" in tenant.text[4]
    assert tenant.text[5] == "error: root: dead"
    assert any("UserWarning: look out" in line for line in tenant.text)
    assert tenant.text[-1] == "stdout: no newline"
    assert "not shown" not in "".join(tenant.text)


def test_a_host_that_takes_nothing_for_long_is_not_told_of_it_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand lines in each second, of which it would take those of ten for a flood, and end an honest guest."""
    now, behind, notes = [0.0], [0], list[bytes]()
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr("cloister.sandbox.guest.output.time", clock)
    output = Output()
    output.note, output.backlog = lambda _, payload: notes.append(payload), lambda: behind[0]
    most = 10 * MAX_LINES
    for waits, told in ((0, most), (1, most + MOST_UNTAKEN), (0, 2 * most + MOST_UNTAKEN + 1)):
        behind[0] = waits
        for _ in range(most):
            now[0] += 1.01 / MAX_LINES
            output.say("stdout", "line")
        assert len(notes) == told
    assert sum(b"8,000 lines were printed faster" in note for note in notes) == 1


async def test_a_line_knows_its_invocation_and_its_time(boot: Boot) -> None:
    """Those of the import are of none; each call has a number of its own, kept in its tasks and threads."""
    source = """
    import asyncio
    from workers import WorkerEntrypoint
    print("import")
    class Default(WorkerEntrypoint):
        async def say(self, word):
            print(word)
            await asyncio.gather(asyncio.to_thread(print, word), asyncio.create_task(self.later(word)))
        async def later(self, word):
            await asyncio.sleep(0)
            print(word)
    """
    tenant = await boot(source)
    await asyncio.gather(*(tenant.invoke("say", word) for word in "abc"))
    by_word: dict[str, set[int]] = {}
    for line in tenant.lines:
        by_word.setdefault(line.text, set()).add(line.invocation)
    assert by_word == {"import": {0}, "a": {1}, "b": {2}, "c": {3}}
    assert len(tenant.lines) == 10
    assert all(line.time_ms > 1_600_000_000_000 for line in tenant.lines)


def said(tenant: Any, words: str) -> bool:
    return any(words in line for line in tenant.text)


async def test_uncaught_exceptions_are_told(tenant: Any, until: Until) -> None:
    """In a task, in a thread, in work that goes on after the answer, and in a callback."""
    source = """
    import asyncio, gc, threading
    async def fail(what):
        raise ValueError(what)
    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(fail("in a task"))
        await asyncio.wait({task})
        del task
        gc.collect()
        ctx.waitUntil(fail("in the background"))
        loop.call_soon(lambda: int("in a callback"))
        thread = threading.Thread(target=lambda: int("in a thread"))
        thread.start()
        thread.join()
    """
    await tenant.do(source)
    for words in ("in a task", "in the background", "in a callback", "in a thread"):
        await until(partial(said, tenant, words))
    whole = "\n".join(tenant.text)
    assert "work given to wait_until() failed\nValueError: in the background" in whole
    assert "Task exception was never retrieved\nValueError: in a task" in whole
    await until(lambda: tenant.sandbox.background == 0)


async def test_much_that_goes_on_in_the_background_is_a_word_now_and_then(tenant: Any, until: Until) -> None:
    """That there is something is told at once, before the answer; each word costs the host as much as a call."""
    told: list[int] = []
    hear = tenant.sandbox._peer._on_note

    def count(topic: str, payload: bytes) -> None:
        hear(topic, payload)
        told.append(tenant.sandbox.background)

    tenant.sandbox._peer._on_note = count
    source = """
    import asyncio
    async def main():
        for _ in range(5000):
            ctx.wait_until(asyncio.sleep(0))
            await asyncio.sleep(0)
    """
    now = asyncio.get_running_loop().time
    began = now()
    await tenant.do(source)
    assert told[0] == 1
    await until(lambda: tenant.sandbox.background == 0)
    assert len(told) < 4 + 2 * (now() - began) / 0.002


async def test_background_work_is_counted(tenant: Any, until: Until) -> None:
    """The sandbox is busy until it is done, so that nobody takes it for idle."""
    source = """
    import asyncio
    async def main(count):
        global gate
        gate = env.setdefault("gate", asyncio.Event())
        for _ in range(count):
            ctx.wait_until(gate.wait())
        if not count:
            gate.set()
    """
    await tenant.do(source, 3)
    await until(lambda: tenant.sandbox.background == 3)
    assert tenant.sandbox.busy
    await tenant.do(source, 0)
    await until(lambda: tenant.sandbox.background == 0)
    assert not tenant.sandbox.busy


async def test_long_lines_are_cut(tenant: Any) -> None:
    """With how long they were."""
    source = "def main():\n    print('x' * 100_000)\n    print('y' * 50_000, end='')\n    print('z' * 10)\n    print()"
    await tenant.do(source + "\n    print('ä' * 8192)")
    assert tenant.lines[0].text == "x" * 8192 + " … (100,000 characters)"
    assert tenant.lines[1].text == "y" * 8192 + " … (50,000 characters)"
    assert [line.text for line in tenant.lines[2:]] == ["z" * 10, "", "ä" * 8192]


async def test_an_unfinished_line_is_said_when_it_is_flushed(tenant: Any) -> None:
    """And its end is not another line."""
    source = "def main():\n    print('a', end='', flush=True)\n    print()\n    print()\n    print('b', end='')"
    await tenant.do(source)
    assert tenant.text == ["stdout: a", "stdout: ", "stdout: b"]


async def test_text_that_is_no_text_is_printed_all_the_same(tenant: Any) -> None:
    """Half a character, control characters, and records that cannot be formatted."""
    source = """
    import logging
    def main():
        print("\\ud800 half")
        print("a\\0b\\x1b[31m")
        logging.error("%d", "no number")
        print(*range(3), sep="\\n")
    """
    await tenant.do(source)
    assert tenant.text[0] == "stdout: ? half"
    assert tenant.text[1] == r"stdout: a\x00b\x1b[31m"
    assert "cannot be formatted" in tenant.text[2]
    assert tenant.text[3:] == ["stdout: 0", "stdout: 1", "stdout: 2"]


async def test_the_host_cuts_what_the_guest_did_not(tenant: Any, until: Until) -> None:
    """The other end may be anything by now."""
    source = """
    from cloister.ipc import values
    def main(note):
        import gc
        from cloister.ipc.peer import Peer
        peer = next(found for found in gc.get_objects() if isinstance(found, Peer))
        peer.note("log", values.dumps(["stdout", "x" * 50_000, 1, 1]))
    """
    await tenant.do(source, None)
    await until(lambda: tenant.lines)
    assert len(tenant.lines[0].text) <= LINE_LENGTH


@pytest.mark.parametrize("told", [0, -1, 2**63, -(2**63), 2**64 - 1])
def test_a_line_is_of_no_time_at_which_it_cannot_have_been_printed(told: int) -> None:
    """It is the tenant's process that says when: not before it was there, and not after it was heard."""
    before = int(time.time() * 1000)
    tail = Tail(1 << 20, time.monotonic)
    heard: list[LogLine] = []
    tail.listener = heard.append
    tail.hear("stdout", "a word", 1, told)
    assert before <= heard[0].time_ms <= int(time.time() * 1000)


async def test_a_flood_is_bounded_and_counted(boot: Boot) -> None:
    """As many lines a second as are worth reading; the rest are counted, and the neighbours are answered."""
    flooder, neighbour = await boot(), await boot()
    source = """
    import time
    def main():
        clock, now = time.monotonic, time.monotonic()
        time.monotonic = lambda: now  # a busy machine may take so long that it is no flood
        for n in range(20_000): print('line', n)
        time.monotonic = clock
    """
    flood = asyncio.ensure_future(flooder.do(source))
    answers = 0
    while not flood.done():
        assert await neighbour.do("def main(): return 1") == 1
        answers += 1
    await flood
    assert answers > 0
    kept = [line for line in flooder.lines if line.text.startswith("line ")]
    assert LINES_PER_SECOND <= len(kept) <= 20_000 - flooder.sandbox.tail.dropped
    assert len(kept) < 20_000, "either end drops what comes too fast for it"
    assert kept[0].text == "line 0"
    told = [line.text for line in flooder.lines if line not in kept]
    assert all(re.match(r"[0-9,]+ lines (came|were printed) faster than they ", text) for text in told)
    assert neighbour.lines == []
    assert await flooder.do("def main(): return 'alive'") == "alive"


def test_a_flood_is_said_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's lines may come at once after a rest, and then never again: each time they would hold up the host, and
    whoever else waits for it. Long ones count as many."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for length, weight in ((10, 1), (MAX_LINE, 1 + MAX_LINE // LONG), (3_000_000, 1 + MAX_LINE // LONG)):
        said: list[bytes] = []
        output = Output()
        output.note = lambda _topic, payload, said=said: said.append(payload)  # type: ignore[misc]
        text, at_once = "x" * length, list[int]()
        for _ in range(200):
            now[0] += 0.01
            before = len(said)
            for _ in range(MAX_LINES + 1):
                output.say("stdout", text)
            at_once.append(len(said) - before)
        assert at_once[0] == -(-MAX_LINES // weight)
        assert max(at_once[1:]) * weight <= FEW + MAX_LINES // 100 + 2 * weight
        assert sum(at_once[100:]) * weight == pytest.approx(MAX_LINES, rel=0.2)
        assert sum(b"printed faster" in payload for payload in said) <= 2 * MAX_LINES / FEW
        now[0] += 10.0


async def test_printing_in_threads_does_not_break_the_wire(tenant: Any) -> None:
    """Large answers and lines of several threads go over one connection, and each arrives whole."""
    source = """
    import threading, time
    class Talker(threading.Thread):
        go_on, failed = True, None
        def run(self):
            try:
                while Talker.go_on:
                    print("x" * 2000)
                    time.sleep(0.0001)  # or else the interpreter is theirs most of the time
            except BaseException as error:
                Talker.failed = repr(error)
    def main(what):
        if what == "start":
            env["Talker"] = Talker
            for _ in range(2):
                Talker(daemon=True).start()
        elif what == "stop":
            env["Talker"].go_on = False
            return env["Talker"].failed
        return "y" * 1_000_000
    """
    await tenant.do(source, "start")
    for _ in range(12):
        assert await tenant.do(source, "answer") == "y" * 1_000_000
    assert await tenant.do(source, "stop") is None
    assert {line.text for line in tenant.lines if line.level == "stdout"} == {"x" * 2000}
