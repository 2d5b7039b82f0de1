"""How shards are opened, and by what function; what is said when they cannot be, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.engine import Engine, EngineLocked
from cloister.ipc import RemoteError
from cloister.loader import Host, LoaderClosed, Shard, ShardFailed, Shards, WorkerCode
from cloister.loader.shards.place import claim

# ruff: noqa: ASYNC220, ASYNC240 - a test may begin programs, and look at its folder

Eventually = Callable[[Callable[[], Any]], Awaitable[None]]
PROGRAM = textwrap.dedent('''
    """A program as somebody writes it first: the function and its use in one file."""

    from __future__ import annotations

    import asyncio
    import sys
    from typing import ClassVar
    from dataclasses import dataclass

    from cloister.loader import Host, Shard, Shards, WorkerCode

    print("imported as", __name__, flush=True)
    SOURCE = """
    from workers import WorkerEntrypoint, WorkflowEntrypoint
    class Default(WorkerEntrypoint):
        async def greet(self, name):
            return await self.env.GREET(name)
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            return (await step.wait_for_event("go on", "go")).payload
    """

    def make_host(shard: Shard) -> Host:
        @dataclass
        class Greeting:
            words: str
            kind: ClassVar[str] = "plain"

        env = {"GREET": lambda name: Greeting("Hello").words + " " + name}
        return Host(
            shard.path, spares=0,
            get_code=lambda _: WorkerCode(main_module="main.py", modules={"main.py": SOURCE}, env=env),
        )

    async def main() -> None:
        async with Shards("data", make_host, count={count}) as host:
            print(await host.tenant("t-42").greet("Alice"), flush=True)
            instance = await host.workflows("t-42").create(id="order")
            if len(sys.argv) > 1:
                waiting = asyncio.ensure_future(host.serve() if sys.argv[1] == "serve" else instance.result())
                await asyncio.sleep(0)
                print(*(each._process._process.pid for each in host._keepers), flush=True)
                print(await waiting, flush=True)
        print("closed", flush=True)

    if __name__ == "__main__":
        asyncio.run(main())
''')
ORDER = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", **os.environ}


def nothing(_: Shard) -> Host:
    """A function at the top of a module that no other process can find under that name."""
    raise AssertionError("nobody calls it")


@pytest.fixture
def nothing_is_left(runner: asyncio.Runner) -> Iterator[None]:
    """No task, no descriptor and no process more than before."""

    async def look() -> tuple[int, int, set[psutil.Process]]:
        for _ in range(3):
            await asyncio.sleep(0)
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        return len(asyncio.all_tasks()), descriptors, set(psutil.Process().children())

    before = runner.run(look())
    yield
    assert runner.run(look()) == before


@asynccontextmanager
async def program(folder: Path, *arguments: str, count: int = 1) -> AsyncIterator[subprocess.Popen[str]]:
    """The program, as the leader of a group of its own."""
    (folder / "program.py").write_text(PROGRAM.replace("{count}", str(count)))
    with subprocess.Popen(
        [sys.executable, "program.py", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True,
        process_group=0, env=ORDER,
    ) as running:  # fmt: skip
        try:
            yield running
        finally:
            running.kill()


async def line_of(running: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert running.stdout is not None
    return (await asyncio.to_thread(running.stdout.readline)).strip()


async def begun(running: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its shards, once all of it is there."""
    while (said := await line_of(running)) != "Hello Alice":
        assert said.startswith("imported as ")
    return [psutil.Process(int(pid)) for pid in (await line_of(running)).split()]


# Which function


@pytest.mark.parametrize("name", ["make_later", pytest.param("Made.make", marks=pytest.mark.long)])
async def test_a_function_is_given_by_its_name(
    tmp_path: Path, service: str, name: str, nothing_is_left: None, tenant: str
) -> None:
    """One that awaits, and one that is inside a class, too."""
    async with Shards(tmp_path / "a" / "b", f"{service}:{name}", count=1) as host:
        assert await host.tenant(tenant).greet("Alice") == "Hello Alice"
        assert host.shard(tenant) == Shard(tmp_path / "a" / "b", 0, 1)
        assert len(host) == 1


async def test_a_function_is_given_as_itself(tmp_path: Path, service: str, tenant: str) -> None:
    """Where it is at the top of a module that a shard can import as well."""
    module = __import__(service)
    async with Shards(str(tmp_path), module.make_host, count=1) as host:
        assert await host.tenant(tenant).greet("Alice") == "Hello Alice"


def test_what_no_other_process_could_find_is_refused_at_once(tmp_path: Path) -> None:
    """Before anything is begun, and it is said what could be."""

    def inside(_: Shard) -> Host:
        raise AssertionError

    class Service:
        def make(self, _: Shard) -> Host:
            raise AssertionError

    for hidden in (lambda _: nothing(_), inside, Service().make):
        with pytest.raises(ValueError, match=r"cannot be found from another process: .* give one from the top of a"):
            Shards(tmp_path, hidden)
    for odd in (3, None):
        with pytest.raises(TypeError, match="a function from a Shard to its Host is needed, not"):
            Shards(tmp_path, odd)  # type: ignore[arg-type]
    for odd_name in ("service", "service:", ":make_host", ""):
        with pytest.raises(ValueError, match="is no 'module:function'"):
            Shards(tmp_path, odd_name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given", ["-c", pytest.param("-", marks=pytest.mark.long), pytest.param("-i", marks=pytest.mark.long)]
)
def test_what_is_typed_at_a_prompt_is_in_no_file(tmp_path: Path, given: str) -> None:
    """And so it is for no other process."""
    typed = "from cloister.loader import Shards\ndef make_host(shard): pass\n\nShards('data', make_host)\n"
    command = [sys.executable, "-c", typed] if given == "-c" else [sys.executable, given]
    run = subprocess.run(command, input="" if given == "-c" else typed, cwd=tmp_path, text=True, capture_output=True)
    assert "ValueError: make_host is in no file: a shard is a process of its own" in run.stderr
    assert list(tmp_path.iterdir()) == []


async def test_the_function_may_be_in_the_program_itself(tmp_path: Path) -> None:
    """Which each shard runs once more, under another name; warnings are errors in all of them."""
    async with program(tmp_path, count=2) as running:
        output, _ = await asyncio.to_thread(running.communicate)
    assert running.returncode == 0
    assert output.split("\n") == [
        "imported as __main__", *["imported as __cloister_shard__"] * 2, "Hello Alice", "closed", ""
    ]  # fmt: skip


@pytest.mark.parametrize("way", [pytest.param("module", marks=pytest.mark.long), "folder"])
async def test_the_program_may_be_a_package(tmp_path: Path, way: str) -> None:
    """Run by its name, or as a folder."""
    (tmp_path / "service_package").mkdir()
    (tmp_path / "service_package" / "__main__.py").write_text(PROGRAM.replace("{count}", "1"))
    what = ["-m", "service_package"] if way == "module" else ["service_package"]
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, *what], cwd=tmp_path, text=True, capture_output=True, env=ORDER
    )
    assert run.stdout.split("\n")[2:] == ["Hello Alice", "closed", ""], run.stderr


async def test_a_program_that_begins_when_it_is_imported_is_told_what_to_do(tmp_path: Path) -> None:
    """It would begin again in each shard."""
    (tmp_path / "program.py").write_text(
        PROGRAM.replace("{count}", "1").replace('if __name__ == "__main__":', "if True:")
    )
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "program.py"], cwd=tmp_path, text=True, capture_output=True
    )
    assert run.returncode == 1
    assert 'what is to be done only once stands under `if __name__ == "__main__":`' in run.stderr


# What goes wrong


async def test_what_the_function_raises_is_raised(tmp_path: Path, service: str, nothing_is_left: None) -> None:
    """With the shard it was for, and with its cause."""
    (tmp_path / "broken").write_text("the store is away")
    with pytest.raises(LookupError, match="the store is away") as caught:
        async with Shards(tmp_path, f"{service}:make_host", count=2):
            pass
    assert caught.value.__notes__ == [f"when shard 0 of 2 was opened, {tmp_path / '0-of-2.db'}"]
    with pytest.raises(RemoteError, match="Boom: of my own") as own:
        async with Shards(tmp_path, f"{service}:raise_own", count=1):
            pass
    assert isinstance(own.value.__cause__, LookupError)
    assert "sharded_service.py" in own.value.trace


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("{}:give_none", TypeError, "the function gave NoneType for a shard, and not its Host"),
        ("{}:nowhere", ImportError, "sharded_service has no 'nowhere' when a shard imports it"),
        ("{}:Made.nowhere", AttributeError, "nowhere"),
        ("no_such_module:make_host", ModuleNotFoundError, "No module named 'no_such_module'"),
        ("{}:leave", ShardFailed, r"ended before it was open \(exit 7\); its standard error says why"),
        ("{}:crash", TypeError, "crash"),
        ("{}:raise_for_one", ValueError, "not this one"),
    ],
)
async def test_what_keeps_a_shard_from_being_opened_is_raised(
    tmp_path: Path, service: str, name: str, kind: type[Exception], words: str, nothing_is_left: None
) -> None:
    """And all are closed again; who calls one hears that it is not open."""
    shards = Shards(tmp_path, name.format(service), count=2 if "one" in name else 1)
    with pytest.raises(kind, match=words):
        async with shards:
            pass
    with pytest.raises(LoaderClosed, match="async with Shards"):
        await shards.tenant("t").greet("Alice")
    os.close(claim(tmp_path))


async def test_shards_are_used_inside_their_block(tmp_path: Path, service: str) -> None:
    """Before it they are told of as closed, by whatever is asked."""
    host = Shards(tmp_path, f"{service}:make_host")
    for ask in (host.tenant, host.worker, host.workflows, host.shard, host.asgi):
        with pytest.raises(LoaderClosed, match=r"inside `async with Shards"):
            ask("t")
    with pytest.raises(LoaderClosed):
        await host.evict("t")


async def test_a_folder_keeps_its_number_and_has_one_front(
    tmp_path: Path, service: str, tenant: str, nothing_is_left: None
) -> None:
    """Another number is refused, another front at once, and a file that is gone; without a number it is found."""
    async with Shards(tmp_path, f"{service}:make_host", count=2) as host:
        instance = await host.workflows(tenant).create(id="order", params={"number": 1})
        await instance.result(timeout=100)
        with pytest.raises(EngineLocked, match="has its shards open elsewhere"):
            await Shards(tmp_path, f"{service}:make_host").__aenter__()
        with pytest.raises(EngineLocked):
            await host.__aenter__()
        assert await host.tenant(tenant).greet("Alice") == "Hello Alice"
    with pytest.raises(ValueError, match="holds databases of 2 shards, and 3 are asked for"):
        await Shards(tmp_path, f"{service}:make_host", count=3).__aenter__()
    async with Shards(tmp_path, f"{service}:make_host") as host:
        assert len(host) == 2
        assert await host.workflows(tenant).handle("order").result() == 4
        place = host.shard(tenant).path
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{place.name} is not there: put it back"):
        await Shards(tmp_path, f"{service}:make_host").__aenter__()
    assert not place.exists()


async def test_what_shards_have_stored_a_host_can_open(tmp_path: Path, service: str, tenant: str) -> None:
    """Each file is an engine's, and what is told of an instance is the same."""
    async with Shards(tmp_path, f"{service}:make_host", count=1) as shards:
        place = shards.shard(tenant)
        instance = await shards.workflows(tenant).create(id="order", params={"number": 1}, labels={"a": "b"})
        assert await instance.result(timeout=100) == 4
        told = await instance.status(), await shards.workflows(tenant).list()
        events = [event async for event in instance.subscribe()]
    assert place.has(tenant)
    async with Host(place.path, get_code=lambda _: WorkerCode(main_module="a.py", modules={"a.py": ""})) as host:
        again = host.workflows(tenant).handle("order")
        assert (await again.status(), await host.workflows(tenant).list()) == told
        assert [event async for event in again.subscribe()] == events


async def test_a_database_that_something_else_has_open_is_said_at_once(
    tmp_path: Path, service: str, nothing_is_left: None
) -> None:
    """The function is not asked again and again."""
    async with Engine(tmp_path / "0-of-1.db"):
        with pytest.raises(EngineLocked):
            await Shards(tmp_path, f"{service}:make_host", count=1).__aenter__()
    assert (tmp_path / "opened-0").read_text() == "x"


async def test_a_shard_waits_for_the_process_that_had_its_file_before(
    tmp_path: Path, service: str, tenant: str, eventually: Eventually
) -> None:
    """Whose front was killed, and which is about to end; only then is the function called."""
    before = os.open(tmp_path / "0-of-1.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(before, fcntl.LOCK_EX)
    shards = Shards(tmp_path, f"{service}:make_host", count=1)
    opening = asyncio.ensure_future(shards.__aenter__())

    def waits() -> bool:
        if not shards._keepers or (process := shards._keepers[0]._process) is None:
            return False
        files = [*Path(f"/proc/{process._process.pid}/fd").iterdir()]
        return any(file.is_symlink() and file.readlink().name == "0-of-1.lock" for file in files)

    await eventually(waits)
    assert not (tmp_path / "opened-0").exists()
    os.close(before)
    await opening
    assert await shards.tenant(tenant).greet("Alice") == "Hello Alice"
    await shards.__aexit__(None, None, None)


async def test_opening_can_be_given_up(
    tmp_path: Path, service: str, nothing_is_left: None, eventually: Eventually
) -> None:
    """While the function is at work, and before it is."""
    for long in (True, False):
        shards = Shards(tmp_path, f"{service}:never", count=2)
        opening = asyncio.ensure_future(shards.__aenter__())
        await eventually((tmp_path / "begun-1").exists if long else (tmp_path / "lock").exists)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        for each in shards._keepers:
            assert each._process is None or each._process._reaped.result() == "exit 0", "it was not waited for in vain"
    os.close(claim(tmp_path))


async def test_a_process_that_cannot_be_begun_is_told_of(
    tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch, nothing_is_left: None
) -> None:
    """And leaves no socket."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError, match="/nowhere/python"):
        await Shards(tmp_path, f"{service}:make_host", count=2).__aenter__()


# How it ends


async def test_when_the_front_is_killed_its_shards_end_and_the_folder_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By themselves, and at once; what ran goes on."""
    async with program(tmp_path, "stay", count=2) as running:
        shards = await begun(running)
        running.kill()
        await asyncio.to_thread(running.wait)
        monkeypatch.syspath_prepend(tmp_path)
        async with Shards(tmp_path / "data", "program:make_host") as host:
            await host.workflows("t-42").handle("order").send_event(type="go", payload="tea")
            assert await host.workflows("t-42").handle("order").result(timeout=100) == "tea"
        await asyncio.to_thread(psutil.wait_procs, shards)
        assert not any(each.is_running() for each in shards)


async def test_ctrl_c_is_the_fronts(tmp_path: Path) -> None:
    """Of the whole group it ends only that, and that in good order."""
    async with program(tmp_path, "stay") as running:
        shards = await begun(running)
        assert {os.getpgid(each.pid) for each in shards}.isdisjoint({running.pid})
        os.killpg(running.pid, signal.SIGINT)
        output, _ = await asyncio.to_thread(running.communicate)
        assert running.returncode in {1, -signal.SIGINT}
        assert output == ""
        assert not any(each.is_running() for each in shards)


@pytest.mark.parametrize("word", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
async def test_serving_ends_with_a_signal_after_a_drain(tmp_path: Path, word: signal.Signals) -> None:
    """Then everything is closed."""
    async with program(tmp_path, "serve") as running:
        shards = await begun(running)
        running.send_signal(word)
        output, _ = await asyncio.to_thread(running.communicate)
        assert output.split("\n")[1:] == ["closed", ""]
        assert running.returncode == 0
        assert not any(each.is_running() for each in shards)


async def test_closing_twice_does_no_harm(tmp_path: Path, service: str, nothing_is_left: None) -> None:
    """Nor does it for shards that were never open."""
    host = Shards(tmp_path, f"{service}:make_host", count=1)
    await host.__aexit__(None, None, None)
    await host.__aenter__()
    await host.__aexit__(None, None, None)
    await host.__aexit__(None, None, None)
