"""`cloister instances`: what an operator sees of a file beside its host, and does to it when no host has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine, InstanceNotFound, WorkflowEntrypoint
from cloister.engine.testing import VirtualClock
from cloister.loader import cli

FLAKY = {"retries": {"limit": 3, "delay": 60_000, "backoff": "constant"}}


class Order(WorkflowEntrypoint):
    """Fetches with some trouble, waits for the answer that it is to be given, and says what it was told."""

    async def run(self, event: Any, step: Any) -> Any:
        """The workflow."""
        await step.do("fetch", FLAKY, self._fetch)
        await step.sleep("settle", "1 hour")
        approval = await step.wait_for_event("approval", type="approve", timeout="1 day")
        return await step.do("ship", lambda: approval.payload)

    def _fetch(self) -> str:
        self.env.append("fetch")
        if len(self.env) == 1:
            raise ConnectionError("no \x1b[31mroute\nto it")
        return "rows"


class Desk:
    """One who types commands, and reads what comes of them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._monkeypatch, self._capsys = path, monkeypatch, capsys
        monkeypatch.setenv("COLUMNS", "200")

    def ask(self, verb: str, *words: object, workflow: str = "orders") -> str:
        """What is printed for a command that goes well."""
        code, output, errors = self._type(verb, workflow, words)
        assert (code, errors) == (0, "")
        return output

    def refused(self, verb: str, *words: object, workflow: str = "orders") -> str:
        """What is said of one that does not."""
        code, _, errors = self._type(verb, workflow, words)
        assert code == 1
        assert errors.startswith(f"cloister instances {verb}: ")
        assert "Traceback" not in errors
        return errors

    def misunderstood(self, verb: str, *words: object) -> str:
        """What is said of words that cannot be meant, in the last line after how it is used."""
        code, _, errors = self._type(verb, "orders", words)
        assert code == 2
        assert "Traceback" not in errors
        return errors.splitlines()[-1]

    def listed(self, *words: object) -> list[str]:
        """The ids that a list tells."""
        return [each["id"] for each in json.loads(self.ask("list", "--json", *words))["instances"]]

    def _type(self, verb: str, workflow: str, words: tuple[object, ...]) -> tuple[object, str, str]:
        typed = ["cloister", "instances", verb, self.path, workflow, *words]
        self._monkeypatch.setattr(sys, "argv", list(map(str, typed)))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *self._capsys.readouterr()


@pytest.fixture
def desk(path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    """Someone at the command line, who lives in the time of the hosts."""
    monkeypatch.setattr("cloister.engine.store.steering.SystemClock", lambda: clock)
    return Desk(path, monkeypatch, capsys)


async def waiting(path: Path, clock: VirtualClock, *names: str) -> None:
    """A host that has brought these as far as their event, and is gone."""
    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("orders", Order, env=["one that went well"])
        for name in names:
            await workflow.create(id=name)
        await clock.advance(2 * 3600)


async def status(path: Path, clock: VirtualClock, name: str, seconds: float = 1) -> dict[str, Any]:
    """How the next host finds it, after so long."""
    async with Engine(path, clock=clock) as engine:
        instance = await engine.workflow("orders", Order, env=["one that went well"]).get(name)
        await clock.advance(seconds)
        return await instance.status()


async def test_what_there_is_is_listed_beside_a_live_host(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """Newest first, what fits all filters, a page at a time; whose and how labelled is told."""
    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("orders", Order, env=[1])
        for number in range(4):
            labels = {"plan": "pro"} if number % 2 else {}
            await workflow.create(id=f"n{number}", scope=f"t-{number % 2}", labels=labels)
        await (await workflow.get("n0", scope="t-0")).terminate()
        assert desk.listed() == ["n3", "n2", "n1", "n0"]
        assert desk.listed("--scope", "t-1") == desk.listed("--label", "plan=pro") == ["n3", "n1"]
        assert desk.listed("--status", "terminated", "--status", "errored") == ["n0"]
        assert desk.listed("--created-before", "2001-01-01T00:00") == []
        assert desk.listed("--created-from", "2001-01-01") == ["n3", "n2", "n1", "n0"]
        shown = desk.ask("list", "--limit", 3)
        assert "t-1" in shown
        assert "plan=pro" in shown
        assert desk.listed("--limit", 3, "--cursor", shown.split()[-1]) == ["n0"]


async def test_an_id_is_whole_however_narrow_the_terminal_is(
    path: Path, desk: Desk, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to be copied into the next command."""
    await waiting(path, clock, name := "44076107-1191-40d9-aa67-7935205fcb0e" * 2)
    monkeypatch.setenv("COLUMNS", "60")
    [line] = [line for line in desk.ask("list").splitlines() if name in line]
    assert line.split()[:2] == [name, "waiting"]


def run_in_ascii(*words: object) -> str:
    """What is printed where the output takes nothing but ASCII."""
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", "from cloister.loader.cli import main; main()", *map(str, words)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    return result.stdout


async def test_an_output_that_takes_ascii_alone_is_enough(path: Path, clock: VirtualClock) -> None:
    """People see question marks, and programs by number what each character is."""
    async with Engine(path, clock=clock) as engine:
        await engine.workflow("orders", Order, env=[1]).create(id="n1", labels={"where": "café"})
    assert "where=caf?" in run_in_ascii("instances", "list", path, "orders")
    assert "where=caf?" in run_in_ascii("instances", "describe", path, "orders")
    listed = json.loads(run_in_ascii("instances", "list", path, "orders", "--json"))
    assert [each["labels"] for each in listed["instances"]] == [{"where": "café"}]
    assert json.loads(run_in_ascii("instances", "export", path, "orders"))["labels"] == {"where": "café"}
    assert "Tenants can be run here" in run_in_ascii("doctor")


async def test_a_timeline_explains_itself(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """What failed and why, what is waited for and how long, what was done to the instance and when; nothing that a
    tenant wrote reaches the terminal as anything but text.
    """
    async with Engine(path, clock=clock) as engine:
        instance = await engine.workflow("orders", Order, env=[]).create(id="x", labels={"plan": "pro"})
        await clock.advance(1)
        assert "1 failed: ConnectionError: no  [31mroute to it; attempt 2 is due" in desk.ask("describe", "x")
        await clock.advance(60)
        assert "sleeps until" in desk.ask("describe", "x")
        await clock.advance(2 * 3600)
        await instance.pause()
        await clock.advance(60)
        shown = desk.ask("describe", "--outputs")
        assert shown.startswith("orders x: paused\n")
        assert "\x1b" not in shown
        assert "labels plan=pro" in shown
        fetch, settle, approval, paused = shown.splitlines()[-4:]
        assert fetch.split()[2:4] == ["fetch", "2"]
        assert '1 failed: ConnectionError: no  [31mroute to it; came to "rows"' in fetch
        assert settle.split()[-1] == "slept"
        assert "waits for an event of type 'approve' until" in approval
        assert paused.split()[-2:] == ["paused", "x"]
        await instance.resume()
        await instance.send_event(type="approve", payload={"by": "ann"})
        await clock.advance(1)
    shown = desk.ask("describe", "x")
    assert "x: complete\n" in shown
    assert 'output {"by": "ann"}' in shown
    assert "goes on" in shown
    assert "took an event of type 'approve'" in shown
    assert json.loads(desk.ask("export"))["output"] == {"by": "ann"}


async def test_what_is_told_to_programs_moves_no_cursor(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """There may be a terminal: what is not for the eye is told by its number, and comes out as it was."""

    class Odd(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            """The workflow."""
            return event.payload

    odd = "\x9b2J\x7f\x1b[2J\u202ecafé\U000e0041\n"
    async with Engine(path, clock=clock) as engine:
        await engine.workflow("orders", Odd).create(id="x", params=odd)
        await clock.advance(1)
    shown = desk.ask("export", "x")
    assert json.loads(shown)["output"] == odd
    assert "café" in shown
    assert shown.replace("\n", "").isprintable()


async def test_what_a_host_has_is_steered_by_nobody_else(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """It is said who has it and what to do, and nothing has changed."""
    async with Engine(path, clock=clock) as engine:
        instance = await engine.workflow("orders", Order, env=[1]).create(id="x")
        await clock.advance(1)
        before = await instance.status()
        for words in (["pause"], ["resume"], ["terminate"], ["restart"], ["send-event", "--type", "a"], ["delete"]):
            verb, *more = words
            said = desk.refused(verb, "x", *more)
            assert "is in use by the engine of process" in said
            assert "ask it, or stop it first" in said
        assert await instance.status() == before


async def test_what_was_steered_is_what_the_next_host_finds(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """Each verb as it is documented for an instance; what one of them refuses keeps no other from it."""
    await waiting(path, clock, "a", "b", "c", "d", "e")
    assert desk.ask("pause", "a", "b") == "a: paused\nb: paused\n"
    assert (await status(path, clock, "a"))["status"] == "paused"
    assert desk.ask("resume", "a") == "a: queued\n"
    desk.ask("send-event", "a", "--type", "approve", "--payload", '{"by": "ann"}', "--id", "1")
    desk.ask("send-event", "a", "--type", "approve", "--payload", '"again"', "--id", "1")
    found = await status(path, clock, "a")
    assert (found["status"], found["output"]) == ("complete", {"by": "ann"})
    said = desk.refused("terminate", "a", "none", "c")
    assert "'a' has ended (complete)" in said
    assert "no instance 'none' in scope ''; --scope names another" in said
    assert (await status(path, clock, "c"))["error"]["name"] == "Terminated"
    assert desk.ask("restart", "a", "d") == "a: queued\nd: queued\n"
    assert [step["name"] for step in (await status(path, clock, "d"))["steps"]] == ["fetch", "settle"]
    desk.ask("restart", "e", "--from-step", "settle", "--from-step-type", "sleep")
    found = await status(path, clock, "e")
    assert (found["run"], [step["status"] for step in found["steps"]]) == (2, ["done", "waiting"])
    assert desk.ask("delete", "e") == "e: deleted\n"
    with pytest.raises(InstanceNotFound):
        await status(path, clock, "e")
    assert (await status(path, clock, "b"))["status"] == "paused"


async def test_all_that_a_filter_fits_are_steered_and_no_others(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """Of every scope, unless one is named; whoever says neither which nor whose has not said enough."""
    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("orders", Order, env=[1])
        for number in range(4):
            await workflow.create(
                id=f"n{number}", scope=f"t-{number % 2}", labels={"plan": "free pro".split()[number // 2]}
            )
        await clock.advance(2 * 3600)
    assert desk.ask("pause", "--label", "plan=pro").splitlines() == ["n3: paused", "n2: paused"]
    assert desk.ask("terminate", "--status", "waiting", "--scope", "t-1") == "n1: terminated\n"
    assert desk.ask("resume", "--status", "paused").splitlines() == ["n3: queued", "n2: queued"]
    for words in ([], ["n0", "--status", "waiting"]):
        assert "name the instances, or say by --status" in desk.refused("delete", *words)
    assert desk.listed("--status", "waiting") == ["n0"]


async def test_steps_are_taken_back_by_the_next_host(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """An operator has none of the program's handlers."""
    taken: list[str] = []

    class Booking(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.do("book", lambda: "seat 7", rollback=lambda output: taken.append(output))
            await step.sleep("travel", "30 days")

    async with Engine(path, clock=clock) as engine:
        await engine.workflow("orders", Booking).create(id="x")
        await clock.advance(60)
    assert desk.ask("terminate", "x", "--rollback") == "x: queued\n"
    assert taken == []
    async with Engine(path, clock=clock) as engine:
        instance = await engine.workflow("orders", Booking).get("x")
        await clock.advance(60)
        assert (await instance.status())["status"] == "terminated"
    assert taken == ["seat 7"]


class Reversed:
    """A codec that only its host has."""

    def encode(self, data: bytes) -> bytes:
        """Anything but a payload."""
        return b"\xc1" + data[::-1]

    def decode(self, data: bytes) -> bytes:
        """Back."""
        return data[:0:-1]


async def test_what_is_sealed_can_be_looked_at_and_not_steered(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """What an operator would write there, its host could not read."""
    async with Engine(path, clock=clock, codec=Reversed()) as engine:
        await engine.workflow("orders", Order, env=[1]).create(id="x")
        await clock.advance(2 * 3600)
    assert "waits for an event of type 'approve'" in desk.ask("describe", "x")
    assert "was written with a codec" in desk.refused("terminate", "x")


async def test_what_cannot_be_done_is_said_in_a_line(path: Path, desk: Desk, clock: VirtualClock) -> None:
    """With an exit code, and nothing is changed."""
    assert "there is no database" in desk.refused("list")
    await waiting(path, clock, "x")
    before = path.read_bytes()  # noqa: ASYNC240
    assert "there is no workflow 'order'; there are orders" in desk.refused("list", workflow="order")
    assert "there is no workflow 'order'" in desk.refused("pause", "x", workflow="order")
    assert "names no status" in desk.refused("list", "--status", "happy")
    assert "a page has 1 to 1000" in desk.refused("list", "--limit", 0)
    assert "no instance 'y' in scope 't'" in desk.refused("describe", "y", "--scope", "t")
    assert "no record of do 'nothing' number 1" in desk.refused("restart", "x", "--from-step", "nothing")
    assert "event type" in desk.refused("send-event", "x", "--type", "a\nb")
    assert path.read_bytes() == before  # noqa: ASYNC240


@pytest.mark.parametrize("payload", [str(10**30), r'"\ud800"', "NaN", "{bad", "[" * 100_000])
def test_what_no_event_can_carry_is_refused_in_a_line(desk: Desk, payload: str) -> None:
    """Before any file is looked at: it is JSON, and of it what a tenant's program can be given."""
    assert "is no payload: " in desk.misunderstood("send-event", "x", "--type", "a", "--payload", payload)


def test_a_filter_that_is_none_selects_nothing(desk: Desk) -> None:
    """A label without a value is a slip: it does not pass for a filter which nothing fits."""
    assert "'plan' is no label" in desk.misunderstood("pause", "--label", "plan")
    assert "'soon' is no time" in desk.misunderstood("list", "--created-from", "soon")
