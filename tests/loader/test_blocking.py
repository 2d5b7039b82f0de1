"""`BlockingHost`: for code that does not await, in any number of threads, and in none that would wait for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import BlockingHost, LoaderClosed, LoaderConfig, TenantError, WorkerCode

SOURCE = """
    from workers import RpcTarget, WorkerEntrypoint, WorkflowEntrypoint
    class Cart(RpcTarget):
        def __init__(self):
            self.items = []
        def add(self, item):
            self.items.append(item)
            return list(self.items)
    class Default(WorkerEntrypoint):
        async def greet(self, name):
            return f"Hello {name}"
        async def fail(self):
            raise ValueError("no")
        async def cart(self):
            return Cart()
        async def ask(self):
            return await self.env.ASK()
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            return await step.do("double", lambda: event.payload * 2)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingHost]:
    """One for all, of which each test uses a tenant of its own."""
    path = tmp_path_factory.mktemp("blocking") / "app.db"

    def get_code(tenant_id: str) -> WorkerCode:
        assert threading.current_thread().name != "cloister"  # it may block, so it must not be there
        return program(env={"ASK": lambda: ask(held)})

    held: list[BlockingHost] = []
    with BlockingHost(path, get_code=get_code, config=LoaderConfig(spares=1, drain_s=5.0)) as host:
        held.append(host)
        yield host


def program(**options: Any) -> WorkerCode:
    """What every tenant here runs."""
    source = "\n".join(line.removeprefix("    ") for line in SOURCE.splitlines())
    return WorkerCode(main_module="main.py", modules={"main.py": source}, **options)


def ask(held: list[BlockingHost]) -> Any:
    """A binding that makes the mistake of waiting in the host's own thread."""
    return held[0].tenant("other").greet("nobody")


def test_a_call_is_a_call(host: BlockingHost) -> None:
    """And what it raises is what it would raise elsewhere."""
    assert host.tenant("t").greet("Alice") == "Hello Alice"
    assert host.worker("t").get_entrypoint("Default").greet(name="Bob") == "Hello Bob"
    with pytest.raises(TenantError, match="ValueError: no"):
        host.tenant("t").fail()
    with pytest.raises(AttributeError, match="public"):
        host.tenant("t")._secret  # noqa: B018


def test_many_threads_call_at_once(host: BlockingHost) -> None:
    """Each gets its own answer."""
    with ThreadPoolExecutor(16) as pool:
        names = [f"n{number}" for number in range(200)]
        found = list(pool.map(lambda name: host.tenant(f"t{len(name)}").greet(name), names))
    assert found == [f"Hello {name}" for name in names]


def test_what_is_returned_waits_as_well(host: BlockingHost) -> None:
    """An object of the tenant's, an instance of a workflow, a history."""
    cart = host.tenant("t").cart()
    assert [cart.add("tea"), cart.add("milk")] == [["tea"], ["tea", "milk"]]
    instance = host.workflows("t").create({"params": 21})
    assert instance.result(timeout=100) == 42
    assert host.workflows("t").get(instance.id).status()["status"] == "complete"
    kinds = []
    for event in instance.subscribe():
        kinds.append(event.type)
        if len(kinds) == 2:
            break
    assert len(kinds) == 2


def test_tenants_are_switched_and_ended(host: BlockingHost) -> None:
    """With the host's own methods."""
    assert host.tenant("x").greet("A") == "Hello A"
    assert host.redeploy("x")
    assert host.evict("x")
    assert not host.evict("x")
    assert host.drain("x")


def test_a_wait_in_the_hosts_own_thread_is_refused(host: BlockingHost) -> None:
    """It would never end; the tenant is told, and everything goes on."""
    with pytest.raises(TenantError, match="own thread, which cannot wait for itself"):
        host.tenant("t").ask()
    assert host.tenant("t").greet("Alice") == "Hello Alice"


def test_a_host_that_is_not_open_says_so(tmp_path: Path) -> None:
    """Before and after; to open it twice or close it twice does no harm."""
    host = BlockingHost(tmp_path / "app.db", get_code=lambda _: program(), spares=0)
    with pytest.raises(LoaderClosed, match="with BlockingHost"):
        host.tenant("t")
    for _ in range(2):
        host.open().open()
        assert host.tenant("t").greet("Alice") == "Hello Alice"
        host.close()
        host.close()
        with pytest.raises(LoaderClosed, match="with BlockingHost"):
            host.tenant("t")


def test_a_host_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    """And can be opened when the reason is gone."""
    folder = tmp_path / "missing"
    host = BlockingHost(folder / "app.db", get_code=lambda _: program(), spares=0)
    before = {*threading.enumerate()}  # those of other hosts may be about to end
    with pytest.raises(Exception, match=r"app\.db"):
        host.open()
    assert {*threading.enumerate()} <= before
    folder.mkdir()
    with host:
        assert host.tenant("t").greet("Alice") == "Hello Alice"


def test_a_forked_process_is_told_to_open_its_own(host: BlockingHost) -> None:
    """The thread that it would wait for is not there."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            host.tenant("t")
            words = "no error"
        except LoaderClosed as error:
            words = str(error)
        os.write(write, words.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert "forked" in os.read(read, 1000).decode()
    os.close(read)
    os.close(write)
    assert host.tenant("t").greet("Alice") == "Hello Alice"


def test_a_process_that_ends_without_closing_ends_in_good_order(tmp_path: Path) -> None:
    """As a server's worker does on SIGTERM: by SystemExit, in the middle of everything."""
    script = f"""
import sys
from cloister.loader import BlockingHost, WorkerCode
source = '''
from workers import WorkerEntrypoint
class Default(WorkerEntrypoint):
    async def greet(self, name): return name
'''
code = WorkerCode(main_module="main.py", modules={{"main.py": source}})
host = BlockingHost({str(tmp_path / "app.db")!r}, get_code=lambda _: code, spares=1).open()
print(host.tenant("t").greet("Alice"))
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("Alice\n", "", 7)


def test_numbers_are_the_hosts(tmp_path: Path) -> None:
    """All options of `Host` are taken, and wrong ones refused when it is opened."""
    with pytest.raises(ValueError, match="max_sandboxes"):
        BlockingHost(tmp_path / "app.db", get_code=lambda _: program(), max_sandboxes=0).open()
