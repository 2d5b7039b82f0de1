"""Bad input, from a tenant, from the host's own functions and from the disk: a clear error, the right one to blame, and
nothing lost.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.engine import (
    DatabaseTooNew,
    Engine,
    EngineError,
    EngineLocked,
    InstanceFailed,
    InstanceNotFound,
    InvalidInstanceId,
    NotACloisterDatabase,
    StorageError,
)
from cloister.engine.testing import VirtualClock
from cloister.ipc import CodecError
from cloister.loader import (
    BlockingHost,
    CodeError,
    DynamicWorkflowBinding,
    EntrypointNotFound,
    Host,
    LimitExceeded,
    Limits,
    Loader,
    LoaderConfig,
    LoaderError,
    LoadFailed,
    SandboxDied,
    SandboxError,
    TenantError,
    WorkerCode,
    WorkerStub,
)
from cloister.loader.http import Request
from cloister.sandbox import ProtocolViolation
from cloister.sandbox.guest.steps import Step

Bind = Callable[..., DynamicWorkflowBinding]
Code = Callable[..., WorkerCode]
MakeWorker = Callable[..., WorkerStub]

GOOD = """
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Default(WorkerEntrypoint):
        async def hello(self):
            return "hello"
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            return await step.do("only", lambda: "mended")
"""

DOES_NOT_LOAD = [
    pytest.param("def broken(:\n    pass\n", "SyntaxError", "main.py", id="does not compile"),
    pytest.param("x = 1\n  y = 2\n", "IndentationError", "main.py", id="is badly indented"),
    pytest.param("x = '\0'\n", "(SyntaxError|ValueError)", "", id="has a null byte"),
    pytest.param("raise LookupError('at import')\n", "LookupError", "at import", id="raises at import"),
    pytest.param("import no_such_module\n", "ModuleNotFoundError", "no_such_module", id="imports what is not there"),
    pytest.param("import sys\nsys.exit(3)\n", "RuntimeError", "sys.exit", id="exits at import"),
    pytest.param("raise KeyboardInterrupt\n", "KeyboardInterrupt", "", id="interrupts itself at import"),
    pytest.param("class Odd(BaseException): pass\nraise Odd('odd')\n", "Odd", "odd", id="raises what is no Exception"),
    pytest.param("while True: pass\n", "LimitExceeded", "imported.*CPU", id="loops at import"),
]


# Source


@pytest.mark.parametrize(("source", "name", "words"), DOES_NOT_LOAD)
async def test_source_that_does_not_load_is_the_tenants_error_for_every_call(
    loader: Loader, code: Code, tenant: str, source: str, name: str, words: str
) -> None:
    """`CodeError` names what was raised; nothing is cached, so that code which is mended runs at once."""
    sources = [source, source]

    def get_code() -> WorkerCode:
        if not sources:
            return code(GOOD)
        return WorkerCode(main_module="main.py", modules={"main.py": sources.pop()}, limits=Limits(cpu_ms=100))

    stub = loader.get(tenant, get_code)
    for _ in range(2):
        with pytest.raises(CodeError, match=f"(?s){name}.*{words}") as caught:
            await stub.get_entrypoint().hello()
        assert isinstance(caught.value, TenantError)
    assert await stub.get_entrypoint().hello() == "hello"


@pytest.mark.parametrize(("source", "name", "words"), DOES_NOT_LOAD)
async def test_source_that_does_not_load_ends_its_instance_errored_with_the_reason(
    bind: Bind, programs: dict[str, WorkerCode], code: Code, source: str, name: str, words: str
) -> None:
    """Durable or not, it is the tenant's error; its neighbour's instance is not touched by it."""
    broken, neighbour = bind(GOOD), bind(GOOD)
    programs[broken.scope] = WorkerCode(main_module="main.py", modules={"main.py": source}, limits=Limits(cpu_ms=100))
    instances = [await broken.create(), await neighbour.create()]
    with pytest.raises(InstanceFailed, match=f"(?s){name}.*{words}"):
        await instances[0].result()
    assert await instances[1].result() == "mended"
    programs[broken.scope] = code(GOOD)
    assert await (await broken.create()).result() == "mended"


async def test_an_error_at_import_shows_the_tenants_own_lines(worker: MakeWorker) -> None:
    """The traceback has the tenant's frames and no others."""
    with pytest.raises(CodeError) as caught:
        await worker("def helper():\n    return 1 / 0\nhelper()\n").get_entrypoint().hello()
    assert 'File "main.py", line 2, in helper' in caught.value.trace
    assert "cloister" not in caught.value.trace


async def test_all_who_called_while_broken_code_was_loading_are_told_the_same(loader: Loader, tenant: str) -> None:
    """Twenty calls, one import, twenty equal errors."""
    code = WorkerCode(main_module="main.py", modules={"main.py": "raise LookupError('once')\n"})
    stub = loader.get(tenant, lambda: code)
    outcomes = await asyncio.gather(*(stub.get_entrypoint().hello() for _ in range(20)), return_exceptions=True)
    assert {(type(outcome), str(outcome)) for outcome in outcomes} == {(CodeError, "LookupError: once")}


async def test_no_such_entrypoint_is_told_to_whoever_calls_and_to_whoever_waits(bind: Bind, worker: MakeWorker) -> None:
    """With the names of those there are."""
    with pytest.raises(EntrypointNotFound, match=r"no such entrypoint: Nope.*Default, TenantWorkflow"):
        await worker(GOOD).get_entrypoint("Nope").hello()
    binding = bind("""
        from workers import WorkflowEntrypoint
        class OtherWorkflow(WorkflowEntrypoint):
            pass
    """)
    with pytest.raises(InstanceFailed, match=r"no such entrypoint: TenantWorkflow.*OtherWorkflow"):
        await (await binding.create()).result()


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("await step.do('a')", r"step\.do has no function to run"),
        ("await step.do('a', None)", r"step\.do has no function to run"),
        ("await step.do('a', one())", r"step\.do\('a'\) got <class 'int'> where its function belongs"),
        (
            "await step.do('a', {'timeout': 1000})",
            r"step\.do\('a'\) got <class 'dict'> where its function belongs.*config goes by its name",
        ),
        ("await step.do('a')(one)", r"step 'a' is awaited without being called"),
        ("return [step.do('a', one)]", r"'coroutine'> cannot be sent; await it, and send its result, at value\[0\]"),
    ],
)
async def test_a_step_that_is_asked_for_wrongly_says_what_to_write(bind: Bind, mistake: str, words: str) -> None:
    """And where: the host has the author's line."""
    binding = bind(f"""
        from workers import WorkflowEntrypoint
        def one():
            return 1
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                {mistake}
    """)
    with pytest.raises(InstanceFailed, match=words) as caught:
        await (await binding.create()).result()
    assert ('File "main.py"' in caught.value.trace) == (not mistake.startswith("return"))
    assert mistake.startswith("return") or mistake in caught.value.trace


def test_a_step_that_nobody_awaits_is_warned_of_by_its_name() -> None:
    """As Python does of every coroutine."""
    owner: Any = None
    with pytest.warns(RuntimeWarning, match="coroutine 'step book a room' was never awaited"):
        Step(owner, "book a room", lambda: 1, None, False, None)()


async def test_a_workflow_that_defines_no_run_says_so(bind: Bind) -> None:
    """And so does a class that is no workflow."""
    for base in ("WorkflowEntrypoint", "WorkerEntrypoint"):
        binding = bind(f"""
            from workers import {base}
            class TenantWorkflow({base}):
                pass
        """)
        with pytest.raises(InstanceFailed, match="run"):
            await (await binding.create()).result()


# What a tenant returns

UNSENDABLE = {
    "an object": ("object()", "object"),
    "a class": ("int", "type"),
    "an exception": ("ValueError('x')", "ValueError"),
    "a generator": ("(n for n in [1])", "generator"),
    "a huge number": ("2 ** 70", "64 bits"),
    "a lone surrogate": ("'\\ud800'", "surrogates"),
    "a map with strange keys": ("{(1, 2): 3}", "key"),
    "itself": ("(lambda l: l.append(l) or l)([])", "nested"),
    "seventeen megabytes": ("bytes(17 * 1024 * 1024)", "17,8"),
}
RETURNS = """
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    def made():
        return {expression}
    class Default(WorkerEntrypoint):
        async def get(self):
            return made()
        async def hello(self):
            return "hello"
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            if event.payload == "output":
                return made()
            try:
                return await step.do("bad", {{"retries": {{"limit": 3, "delay": "1 hour"}}}}, made)
            except Exception as error:
                return [type(error).__name__, str(error)]
"""


_SENDABLE_AT_ONCE = {"a generator", "an exception"}  # one is a stream, the other crosses as a value


@pytest.mark.parametrize("kind", [kind for kind in UNSENDABLE if kind not in _SENDABLE_AT_ONCE])
async def test_a_result_that_cannot_be_sent_is_the_tenants_error(worker: MakeWorker, kind: str) -> None:
    """A direct call is told what it was, and the sandbox lives on."""
    expression, words = UNSENDABLE[kind]
    entrypoint = worker(RETURNS.format(expression=expression)).get_entrypoint()
    with pytest.raises(TenantError, match=words):
        await entrypoint.get()
    assert await entrypoint.hello() == "hello"


@pytest.mark.parametrize("kind", UNSENDABLE)
async def test_an_output_that_cannot_be_stored_ends_the_instance_errored(bind: Bind, kind: str) -> None:
    """With the same words, and readable by whoever asks for its status."""
    expression, words = UNSENDABLE[kind]
    instance = await bind(RETURNS.format(expression=expression)).create(params="output")
    with pytest.raises(InstanceFailed, match=words):
        await instance.result()
    status = await instance.status()
    assert (status["status"], status["output"]) == ("errored", None)


@pytest.mark.parametrize("kind", UNSENDABLE)
async def test_a_step_result_that_cannot_be_stored_fails_that_step_and_is_not_tried_again(
    bind: Bind, kind: str
) -> None:
    """It would not be any better the next time; `run` can catch it and go on."""
    expression, words = UNSENDABLE[kind]
    instance = await bind(RETURNS.format(expression=expression)).create(params="step")
    name, message = await instance.result()
    if kind == "a generator":  # which is read to its end, as a stream of bytes
        assert (name, message) == ("StepError", "StreamError: the stream of step 'bad' yields int; it may yield bytes")
    else:
        assert name == "TypeError"
        assert "not serialisable" in message
        assert words in message
    (step,) = (await instance.status())["steps"]
    assert (step["status"], step["attempts"]) == ("failed", 1)


@pytest.mark.parametrize("expression", ["list(range(100_000))", "[[]] * 70_000", "{str(n): n for n in range(40_000)}"])
async def test_a_result_that_nobody_would_read_is_the_tenants_error_wherever_it_turns_up(
    bind: Bind, worker: MakeWorker, expression: str
) -> None:
    """More elements than are read from anybody: the caller is told, and the instance stays readable."""
    source = RETURNS.format(expression=expression)
    with pytest.raises(TenantError, match="65,536"):
        await worker(source).get_entrypoint().get()
    instance = await bind(source).create(params="output")
    with pytest.raises(InstanceFailed, match="65,536"):
        await instance.result()
    assert (await instance.status())["status"] == "errored"


async def test_an_output_that_is_no_value_at_all_ends_the_instance_errored(bind: Bind) -> None:
    """Bytes that a hostile guest sends in place of its output are looked at before they are stored."""
    binding = bind("""
        import gc
        from workers import WorkflowEntrypoint
        from cloister.ipc import codec, messages
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                peer = self.env.WORKFLOWS._channel
                (call,) = peer._answering
                peer._send(codec.encode(messages.Result(call, b"\\xc1\\xff garbage")))
                await step.sleep("until the end comes", "1 hour")
    """)
    instance = await binding.create()
    with pytest.raises(InstanceFailed, match=r"cannot be read|begins no value"):
        await instance.result()
    assert (await instance.status())["status"] == "errored"


async def test_a_tenants_exception_is_told_as_it_is_whatever_it_is_called(bind: Bind, worker: MakeWorker) -> None:
    """A tenant that names its classes like ours blames nobody else."""
    source = """
        from workers import WorkerEntrypoint, WorkflowEntrypoint
        def fail(name):
            raise type(name, (Exception,), {})("mine")
        class Default(WorkerEntrypoint):
            async def fail(self, name): fail(name)
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step): fail(event.payload)
    """
    entrypoint, binding = worker(source).get_entrypoint(), bind(source)
    names = (
        "DeadlineExceeded PayloadError CapabilityError TooManyCalls SandboxDied LimitExceeded RunOver RunInterrupted"
    )
    for name in [*names.split(), "NoCapacity", "LoadFailed", "StorageError", "CancelledError", "MyOwn"]:
        with pytest.raises(TenantError, match="mine") as caught:
            await entrypoint.fail(name)
        assert caught.value.name == name
        with pytest.raises(InstanceFailed, match=f"{name}: mine"):
            await (await binding.create(params=name)).result()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("raise Odd('odd')", "odd"),
        ("raise Mute()", "Mute"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise SystemExit(3)", "sys.exit"),
        ("raise StopIteration(1)", "StopIteration"),
        ("raise ExceptionGroup('several', [ValueError(1)])", "several"),
        ("raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')", "why"),
        ("raise type('Z' * 5000, (Exception,), {})('y' * 100_000)", "ZZZ"),
    ],
)
async def test_whatever_a_tenant_raises_is_an_answer(
    bind: Bind, worker: MakeWorker, statement: str, words: str
) -> None:
    """Nobody waits for a call, a run or a step whose code raised something unusual."""
    source = f"""
        from workers import WorkerEntrypoint, WorkflowEntrypoint
        class Odd(BaseException):
            pass
        class Mute(Exception):
            def __str__(self): raise RuntimeError("no words")
        def fail():
            {statement}
        class Default(WorkerEntrypoint):
            async def fail(self): fail()
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                if event.payload == "step":
                    await step.do("failing", {{"retries": {{"limit": 0, "delay": 0}}}}, fail)
                fail()
    """
    with pytest.raises((TenantError, SandboxDied), match=words):
        await worker(source).get_entrypoint().fail()
    binding = bind(source)
    for place in ("run", "step"):
        with pytest.raises(InstanceFailed, match=words):
            await (await binding.create(params=place)).result()


# Frames

FRAMES = {
    "garbage": (b"\xff\xffjunk", "broke the protocol"),
    "an empty one": (b"", "broke the protocol"),
    "an unknown kind": (b"\x63" + bytes(16), "broke the protocol"),
    "an answer to nothing": (b"\x02" + bytes(4) + b"\x7f\xff\xff\xff", "broke the protocol"),
}
SENDS = """
    import asyncio
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Default(WorkerEntrypoint):
        async def send(self, frame, size):
            self.env.FIRST._channel._send(frame or bytes(size))
            await asyncio.sleep(1000)
        async def hello(self):
            return "hello"
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            before = await step.do("before", lambda: "kept")
            if await self.env.FIRST():
                self.env.FIRST._channel._send(event.payload.frame or bytes(event.payload.size))
                await asyncio.sleep(1000)
            return [before, await step.do("after", lambda: "done")]
"""


@pytest.mark.parametrize("kind", [*FRAMES, "seventeen megabytes"])
async def test_a_frame_that_breaks_the_protocol_ends_its_sandbox_and_nothing_else(
    worker: MakeWorker, kind: str
) -> None:
    """The call is told why; the neighbour's goes on, and the same tenant is served by a new sandbox."""
    frame, words = FRAMES.get(kind, (b"", "a frame of 17,825,"))
    size = 0 if kind in FRAMES else 17 * 1024 * 1024
    hostile = worker(SENDS, env={"FIRST": lambda: True}).get_entrypoint()
    neighbour = worker(GOOD).get_entrypoint()
    assert await neighbour.hello() == "hello"
    with pytest.raises(ProtocolViolation, match=words) as caught:
        await hostile.send(frame, size)
    assert isinstance(caught.value, SandboxDied)
    assert await neighbour.hello() == "hello"
    assert await hostile.hello() == "hello"


@pytest.mark.parametrize("kind", [*FRAMES, "seventeen megabytes"])
async def test_a_durable_run_whose_sandbox_broke_the_protocol_is_replayed(bind: Bind, kind: str) -> None:
    """What was recorded is kept, and the instance ends as if nothing had been."""
    first = [True]
    binding = bind(SENDS, env={"FIRST": lambda: first.pop() if first else False})
    size = 0 if kind in FRAMES else 17 * 1024 * 1024
    instance = await binding.create(params={"frame": FRAMES.get(kind, (b"",))[0], "size": size})
    assert await instance.result() == ["kept", "done"]
    assert [step["attempts"] for step in (await instance.status())["steps"]] == [1, 1]


# Sudden ends

DIES = """
    import os, signal
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Default(WorkerEntrypoint):
        async def die(self, how):
            die(how)
        async def hello(self):
            return "hello"
    def die(how):
        match how:
            case "exit": os._exit(3)
            case "exit 70": os._exit(70)
            case "abort": os.abort()
            case "loop":
                while True: pass
            case "memory":
                kept = []
                while True: kept.append(bytes(1 << 20))
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            before = await step.do("before", lambda: self.env.LEDGER("before"))
            async def body(ctx):
                if await self.env.LEDGER("during") == 1:
                    die(event.payload)
                return ctx.attempt
            during = await step.do("during", {"retries": {"limit": 0, "delay": 0}}, body)
            return [before, during, await step.do("after", lambda: self.env.LEDGER("after"))]
"""
ENDS = {
    "exit": (SandboxDied, "exited with 3"),
    "exit 70": (SandboxDied, "exited with 70"),
    "abort": (SandboxDied, "killed by SIG"),
    "loop": (LimitExceeded, "exceeded 200 ms of CPU"),
    "memory": (SandboxError, "MiB of memory|MemoryError"),
}


@pytest.mark.parametrize("how", [how for how in ENDS if how != "memory"])
async def test_a_process_that_ends_in_the_middle_of_a_call_is_told_of_in_words(worker: MakeWorker, how: str) -> None:
    """The call fails with what happened, and the next one finds a new sandbox."""
    kind, words = ENDS[how]
    entrypoint = worker(DIES, limits=Limits(cpu_ms=200)).get_entrypoint()
    with pytest.raises(kind, match=words):
        await entrypoint.die(how)
    assert await entrypoint.hello() == "hello"


@pytest.mark.parametrize("how", [how for how in ENDS if how != "memory"])
async def test_a_process_that_ends_in_the_middle_of_a_step_costs_a_replay(bind: Bind, how: str) -> None:
    """The step runs again without using up a retry, what was recorded does not, and the outcome is the same."""
    counts: dict[str, int] = {}

    def ledger(name: str) -> int:
        counts[name] = counts.get(name, 0) + 1
        return counts[name]

    instance = await bind(DIES, env={"LEDGER": ledger}, limits=Limits(cpu_ms=200)).create(params=how)
    assert await instance.result() == [1, 1, 1]
    assert counts == {"before": 1, "during": 2, "after": 1}


async def test_a_tenant_that_takes_too_much_memory_harms_nobody_else(worker: MakeWorker) -> None:
    """Whether it is told in time or ended, its neighbour is still there."""
    neighbour = worker(GOOD).get_entrypoint()
    assert await neighbour.hello() == "hello"
    greedy = worker(DIES, limits=Limits(memory_bytes=32 << 20)).get_entrypoint()
    with pytest.raises((SandboxError, TenantError), match=r"memory|MemoryError"):
        await greedy.die("memory")
    assert await neighbour.hello() == "hello"
    assert await greedy.hello() == "hello"


# The host's own functions


async def test_a_host_callback_that_raises_in_a_step_fails_that_step_as_the_steps_own_error(bind: Bind) -> None:
    """By class; it is retried like any failure, and the host is none the worse."""
    calls = 0

    def flaky() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError(f"attempt {calls}")
        return "reached"

    binding = bind(
        """
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                retries = {"retries": {"limit": event.payload, "delay": 0}}
                return await step.do("call", retries, lambda: self.env.FLAKY())
        """,
        env={"FLAKY": flaky},
    )
    assert await (await binding.create(params=2)).result() == "reached"
    calls = 0
    with pytest.raises(InstanceFailed, match=r"ConnectionError: .*attempt 1"):
        await (await binding.create(params=0)).result()


async def test_a_tail_of_the_hosts_that_raises_costs_the_tenant_nothing(worker: MakeWorker) -> None:
    """The host's log says so; the tenant's call is answered."""

    def broken(line: Any) -> None:
        raise OSError("the tail is broken")

    source = """
        from workers import WorkerEntrypoint
        print("at import")
        class Default(WorkerEntrypoint):
            async def hello(self):
                print("in a call")
                return "hello"
    """
    assert await worker(source, streaming_tails=(broken,)).get_entrypoint().hello() == "hello"


# Ids


async def test_an_unknown_id_is_not_found(bind: Bind) -> None:
    """For the host, and with advice."""
    with pytest.raises(InstanceNotFound, match="'nope'"):
        await bind(GOOD).get("nope")


@pytest.mark.parametrize(
    "bad", ["", "-begins", "a b", "a/b", "../x", "ä", "a" * 101, "a\0", "a\n", 7, b"a", None, ["a"]]
)
async def test_an_id_with_illegal_characters_is_refused_on_the_hosts_side(bind: Bind, bad: Any) -> None:
    """At `create`, `create_batch` and `get` alike, before anything is stored."""
    binding = bind(GOOD)
    with pytest.raises(InvalidInstanceId, match="1 to 100 of a-z"):
        await binding.get(bad)
    if bad is not None:
        with pytest.raises(InvalidInstanceId, match="1 to 100 of a-z"):
            await binding.create(id=bad)
        with pytest.raises(InvalidInstanceId, match="1 to 100 of a-z"):
            await binding.create_batch([{"id": "fine"}, {"id": bad}])
        with pytest.raises(InstanceNotFound):
            await binding.get("fine")


async def test_ids_that_are_unknown_or_illegal_are_refused_to_the_tenant_by_name(
    bind: Bind, worker: MakeWorker
) -> None:
    """As exceptions that it can catch, after which it goes on."""
    source = """
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def outcome(self, method, *args):
                try:
                    await getattr(self.env.WORKFLOWS, method)(*args)
                except Exception as error:
                    return error.name
    """
    client = worker(source, env={"WORKFLOWS": bind(GOOD)}).get_entrypoint()
    assert await client.outcome("get", "nope") == "InstanceNotFound"
    for bad in ("", "-begins", "a b", "../x", "ä", "a" * 101, "a\0", 7):
        assert await client.outcome("get", bad) == "InvalidInstanceId"
        assert await client.outcome("create", {"id": bad}) == "InvalidInstanceId"
        assert await client.outcome("create_batch", [{"id": "fine"}, {"id": bad}]) == "InvalidInstanceId"
    assert await client.outcome("create", {"id": "fine"}) is None
    assert await client.outcome("create", {"id": "fine"}) == "InstanceAlreadyExists"


# The database


def contents(path: Path) -> dict[str, bytes]:
    """The files of a database, but for the lock beside it."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith(".lock")}


async def opening(path: Path, code: Code) -> None:
    async with Host(path, get_code=lambda _: code(GOOD), spares=0):
        pytest.fail("it opened")


async def test_a_database_of_a_newer_version_is_refused_and_not_touched(path: Path, code: Code) -> None:
    """The message says which version it has and which are known."""
    async with Engine(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = contents(path)
    with pytest.raises(DatabaseTooNew, match="999"):
        await opening(path, code)
    assert contents(path) == before


def occupy(path: Path, kind: str) -> None:
    """Put something in the database's place."""
    match kind:
        case "text":
            path.write_text("these are my notes, and they are dear to me\n" * 100)
        case "a folder":
            path.mkdir()
        case _:
            with sqlite3.connect(path) as connection:
                connection.execute("CREATE TABLE theirs (x)")
            connection.close()


@pytest.mark.parametrize("kind", ["text", "another application's"])
async def test_what_is_not_a_database_of_ours_is_refused_and_not_touched(path: Path, code: Code, kind: str) -> None:
    """Somebody else's file is safe, and the error says what it is."""
    occupy(path, kind)
    before = contents(path)
    with pytest.raises(NotACloisterDatabase, match=r"app\.db is"):
        await opening(path, code)
    assert contents(path) == before


async def test_a_folder_in_the_place_of_a_database_is_trouble_with_the_storage(path: Path, code: Code) -> None:
    """It is no file at all."""
    occupy(path, "a folder")
    with pytest.raises(StorageError, match="cannot open"):
        await opening(path, code)


async def test_a_database_in_a_folder_that_is_not_there_says_so(tmp_path: Path, code: Code) -> None:
    """As trouble with the storage, by the path that was asked for."""
    with pytest.raises(StorageError, match="nowhere"):
        await opening(tmp_path / "nowhere" / "app.db", code)


@contextmanager
def holding(path: Path) -> Iterator[int]:
    """Another process that has the database open: its number."""
    program = f"""
import asyncio
from cloister.engine import Engine
async def hold():
    async with Engine({str(path)!r}):
        print("holding", flush=True)
        input()
asyncio.run(hold())
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        yield holder.pid
        holder.communicate("\n")


async def test_a_database_that_another_host_has_open_is_refused_at_once(path: Path, code: Code) -> None:
    """In this process or another one, with the number of that process; it opens when the other has gone."""
    async with Host(path, get_code=lambda _: code(GOOD), spares=0) as host:
        instance = await host.workflows("t").create(id="x")
        with pytest.raises(EngineLocked, match=str(os.getpid())):
            await opening(path, code)
        assert await instance.result() == "mended"
    with holding(path) as holder, pytest.raises(EngineLocked, match=str(holder)):
        await opening(path, code)
    async with Host(path, get_code=lambda _: code(GOOD), spares=0) as host:
        assert await (await host.workflows("t").get("x")).result() == "mended"


async def test_a_host_that_does_not_open_leaves_nothing_running(path: Path, code: Code) -> None:
    """Its loader was open already, and is closed again: no process, no lock, nothing to wait for."""
    occupy(path, "text")
    host = Host(path, get_code=lambda _: code(GOOD), spares=1)
    with pytest.raises(EngineError):
        async with host:
            pytest.fail("it opened")
    zygote = host.loader._profiles.plain.zygote_pid
    assert zygote is None or not psutil.pid_exists(zygote)
    async with Host(path.with_name("other.db"), get_code=lambda _: code(GOOD), spares=0) as again:
        assert await again.tenant("t").hello() == "hello"


WRONG: list[tuple[Callable[[Any, Any, Any], Any], type[Exception], str]] = [
    (lambda loader, stub, code: stub.get_entrypoint().fetch("nope"), ValueError, "'nope' is no absolute URL"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch("/tea"), ValueError, "'/tea' is no absolute URL"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(7), ValueError, "7 is no absolute URL"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch("https://a b/"), ValueError, "no absolute URL"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch("https://a/\n"), ValueError, "no absolute URL"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch("https://a:x/"), ValueError, "Port could not be cast"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch("https://[::1/"), ValueError, "Invalid IPv6 URL"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(URL, body={"a": 1}), ValueError, "a body is .*, not dict"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(URL, headers=7), ValueError, "headers are a map"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(URL, headers={"a": 7}), ValueError, "cannot be sent"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(URL, method="GE T"), ValueError, "'GE T' is no method"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(URL, redirect="maybe"), ValueError, "redirect is follow, "),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(URL, json={}), TypeError, "unexpected keyword .*json"),
    (lambda loader, stub, code: stub.get_entrypoint().fetch(Request(URL), body=b""), TypeError, "body cannot be given"),
    (lambda loader, stub, code: stub.get_entrypoint(7), TypeError, "an entrypoint has a name, .* not 7"),
    (lambda loader, stub, code: stub.get_entrypoint(limits={"cpu_ms": 1}), TypeError, "limits are .* not dict"),
    (lambda loader, stub, code: stub.get_entrypoint(props=object()).name(), CodecError, "object.* cannot be sent"),
    (lambda loader, stub, code: stub.get_entrypoint().name(object()), CodecError, "object.* cannot be sent"),
    (lambda loader, stub, code: loader.get("t", code), TypeError, "get_code is a function .*, not WorkerCode"),
    (lambda loader, stub, code: loader.get("t", lambda: code, version=7), ValueError, "a version is text"),
    (lambda loader, stub, code: loader.get("t", lambda: code, version=""), ValueError, "a version is text"),
    (lambda loader, stub, code: loader.load("source"), TypeError, r"load\(\) takes a WorkerCode, not str"),
    (lambda loader, stub, code: loader.redeploy("t", code), TypeError, "get_code is a function"),
    (lambda loader, stub, code: type(loader)(audit=7), TypeError, "audit is a function"),
    (lambda loader, stub, code: type(loader)(quotas={}), TypeError, "quotas is a function"),
    (lambda loader, stub, code: type(loader)(config={}), TypeError, "config is a LoaderConfig, not dict"),
    (lambda loader, stub, code: type(loader)(policy="strict"), TypeError, "policy is a Policy, not str"),
    (lambda loader, stub, code: Host("app.db", get_code=code), TypeError, "get_code is a function"),
    (lambda loader, stub, code: BlockingHost("app.db", get_code=code), TypeError, "get_code is a function"),
]  # fmt: skip
URL = "https://shop.example/"


@pytest.mark.parametrize("number", range(len(WRONG)))
async def test_what_a_host_gives_wrongly_is_told_to_the_host_and_no_tenant_is_asked(
    loader: Loader, code: Code, tenant: str, number: int
) -> None:
    """At the border, as its own mistake: with a built-in class, and never as the tenant's."""
    attempt, kind, words = WRONG[number]

    def never() -> WorkerCode:
        raise AssertionError("nobody needs the code for this")

    made = code("from workers import WorkerEntrypoint\nclass Default(WorkerEntrypoint): pass")
    get_code = (lambda: made) if kind is CodecError else never
    with pytest.raises(kind, match=words) as told:
        await attempt(loader, loader.get(tenant, get_code), made)
    assert not isinstance(told.value, LoaderError)


async def test_the_hosts_code_function_is_blamed_for_what_it_does(path: Path, code: Code) -> None:
    """A direct call through a host is told that it was `get_code`, whatever it raised or returned."""
    outcomes: list[Callable[[], Any]] = [partial(_raise, KeyError("t")), lambda: None, lambda: code(GOOD)]
    async with Host(path, get_code=lambda _: outcomes.pop(0)(), spares=0) as host:
        with pytest.raises(LoadFailed, match="get_code raised KeyError"):
            await host.tenant("t").hello()
        with pytest.raises(LoadFailed, match="returned NoneType"):
            await host.tenant("t").hello()
        assert await host.tenant("t").hello() == "hello"


def _raise(error: Exception) -> Any:
    raise error


async def test_a_tenant_that_kills_every_run_ends_errored_and_its_neighbour_completes(
    path: Path, code: Code, clock: VirtualClock, pass_time: Any
) -> None:
    """A poison pill is recognised after ten losses in a row without progress, and named for what it does."""
    sources = {
        "poison": """
            import os
            from workers import WorkflowEntrypoint
            class TenantWorkflow(WorkflowEntrypoint):
                async def run(self, event, step):
                    await self.env.ENTERED()
                    os._exit(9)
        """,
        "neighbour": GOOD,
    }
    entered = []

    def get_code(tenant: str) -> WorkerCode:
        return code(sources[tenant], env={"ENTERED": lambda: entered.append(1)})

    engine, config = Engine(path, clock=clock), LoaderConfig(spares=2, restart_most_s=0.25)
    async with Host(path, get_code=get_code, engine=engine, config=config) as host:
        poison = await host.workflows("poison").create()
        neighbour = await host.workflows("neighbour").create()
        assert await neighbour.result() == "mended"

        async def over() -> bool:
            return bool((await poison.status())["status"] == "errored")

        await pass_time(over)
        with pytest.raises(InstanceFailed, match=r"CrashLoop.*10 runs.*exited with 9"):
            await poison.result()
    assert len(entered) == 10
