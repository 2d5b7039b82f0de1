"""The stories: hosts, sandboxes and caches come and go, and no tenant notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cloister.engine import Engine
from cloister.engine.testing import VirtualClock
from cloister.loader import Host, LoaderConfig, Policy, RpcTarget, WorkerCode

PROGRAM = """
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        total = 0
        for number in range(event.payload.steps):
            async def body():
                return await self.env.LEDGER.began(event.instanceId, number)
            total += await step.do(f"step {number}", body)
        return {"total": total, "name": event.payload.name}
"""


class Ledger(RpcTarget):
    """Counts how often each body began; `then` is called each time, before the body goes on."""

    def __init__(self, then: Any = lambda: None) -> None:
        self.beginnings: dict[tuple[str, int], int] = defaultdict(int)
        self._then = then

    async def began(self, instance: str, step: int) -> int:
        """A body began."""
        self.beginnings[instance, step] += 1
        await asyncio.sleep(0.005)
        self._then()
        return step


def code(ledger: Ledger, program: str = PROGRAM) -> WorkerCode:
    return WorkerCode(main_module="main.py", modules={"main.py": program}, env={"LEDGER": ledger})


def test_a_host_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    """What was acknowledged is there after a kill -9 at any instant; no recorded step runs again; events keep order."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    script = [sys.executable, str(Path(__file__).parent / "host_that_dies.py"), str(tmp_path)]
    for _ in range(8):
        host = subprocess.Popen(script, stderr=subprocess.PIPE)
        try:
            host.wait(chance.uniform(0.4, 1.6))
        except subprocess.TimeoutExpired:
            host.send_signal(signal.SIGKILL)
        assert host.stderr is not None
        with host:
            assert b"Traceback" not in host.stderr.read()
    subprocess.run(script, check=True, timeout=280)
    entries = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    assert entries[-1] == ["done"]
    created = [entry[1] for entry in entries if entry[0] == "created"]
    assert len(created) == len(set(created))
    beginnings: dict[tuple[str, int], list[str]] = defaultdict(list)
    for kind, *rest in entries:
        if kind == "began":
            beginnings[rest[0], rest[1]].append(rest[2])
    ended = {entry[1]: entry[2] for entry in entries if entry[0] == "ended"}
    assert len(ended) == 12
    for name, output in ended.items():
        assert output["events"] == [0, 1, 2]
        for step, token in enumerate(output["tokens"]):
            assert beginnings[name, step][-1] == token, "a body began again after its outcome was recorded"


async def test_sandboxes_killed_at_random_cost_nothing_but_replays(path: Path) -> None:
    """Twenty workflows of five tenants end exactly as they would have, while their processes are killed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ledger = Ledger()
    async with Host(path, get_code=lambda _: code(ledger), spares=2) as host:
        instances = [
            await host.workflows(f"t-{n % 5}").create(id=f"i-{n}", params={"steps": 12, "name": n}) for n in range(20)
        ]
        results = asyncio.gather(*(instance.result() for instance in instances))
        kills = 0
        while not results.done() and kills < 12:
            await asyncio.sleep(chance.uniform(0.01, 0.06))
            zygote = psutil.Process(host.loader._profiles.plain.zygote_pid)
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # one that has just ended
                victims = [child for child in zygote.children() if child.status() != psutil.STATUS_ZOMBIE]
                if victims:
                    victim = os.pidfd_open(chance.choice(victims).pid)
                    signal.pidfd_send_signal(victim, signal.SIGKILL)
                    os.close(victim)
                    kills += 1
        assert await results == [{"total": 66, "name": n} for n in range(20)]
        assert kills


async def test_zygotes_that_die_and_zygotes_that_are_rotated_cost_nothing_but_replays(path: Path) -> None:
    """With a new zygote for every few sandboxes, and whichever serves killed now and then, all end as if not."""
    ledger = Ledger()
    policy = Policy(rotate_after_sandboxes=3)
    async with Host(path, get_code=lambda _: code(ledger), spares=1, policy=policy) as host:
        killed: set[int | None] = {None}

        def another() -> bool:
            return host.loader._profiles.plain.zygote_pid not in killed

        instances = [
            await host.workflows(f"t-{n % 5}").create(id=f"i-{n}", params={"steps": 12, "name": n}) for n in range(20)
        ]
        results = asyncio.gather(*(instance.result() for instance in instances))
        for kill in range(1, 4):
            await until(lambda: results.done() or len(ledger.beginnings) > 40 * kill)  # noqa: B023 - awaited in here
            await until(lambda: results.done() or another())
            if not results.done():
                pid = host.loader._profiles.plain.zygote_pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        await until(lambda: results.done() and another())
        assert await results == [{"total": 66, "name": n} for n in range(20)]
        assert len(killed) > 2
        assert len(ledger.beginnings) == 20 * 12


async def test_an_eviction_after_every_step_changes_nothing(path: Path) -> None:
    """A run that loses its sandbox at each step ends as one that never does, and records each step once."""
    ledger = Ledger()
    async with Host(path, get_code=lambda _: code(ledger), spares=4) as host:
        calm = await host.workflows("calm").create(id="same", params={"steps": 8, "name": "x"})
        expected = await calm.result()
        harried = Ledger(lambda: asyncio.get_running_loop().call_soon(host.loader.evict, "harried"))
        host._get_code = lambda _: code(harried)
        instance = await host.workflows("harried").create(id="same", params={"steps": 8, "name": "x"})
        for _ in range(200):
            status = await instance.status()
            if len(harried.beginnings) == 8 or status["status"] == "complete":
                break
            await asyncio.sleep(0.02)
            if max(harried.beginnings.values(), default=0) >= 3:
                harried._then = lambda: None
                await asyncio.sleep(0.05)
                harried.beginnings.clear()
        harried._then = lambda: None
        assert await instance.result() == expected
        steps = (await instance.status())["steps"]
        assert [step["attempts"] for step in steps] == [1] * 8


async def test_a_cache_of_one_serves_many_tenants(path: Path) -> None:
    """Tenants that push each other out of the cache between their steps all come to their end."""
    program = PROGRAM.replace("        return {", '            await step.sleep("apart", 150)\n        return {')
    ledger = Ledger()
    async with Host(path, get_code=lambda _: code(ledger, program), max_sandboxes=1, spares=1) as host:
        instances = [await host.workflows(f"t-{n}").create(params={"steps": 3, "name": n}) for n in range(5)]
        assert [(await instance.result())["total"] for instance in instances] == [3] * 5
        assert host.loader.statistics().evictions > 5


async def test_a_hundred_tenants_share_a_small_cache(path: Path) -> None:
    """Each of a hundred tenants sleeps, waits for an event and ends, in a cache of eight."""
    program = """
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        first = await step.do("first", lambda: event.payload.name)
        await step.sleep("nap", 200)
        approval = await step.wait_for_event("approval", "approval")
        return [first, approval.payload]
"""
    async with Host(path, get_code=lambda _: code(Ledger(), program), max_sandboxes=8, spares=2) as host:
        instances = [await host.workflows(f"t-{n}").create(id="one", params={"name": n}) for n in range(100)]
        for n, instance in enumerate(instances):
            await instance.send_event(type="approval", payload=n * n)
        assert await asyncio.gather(*(instance.result() for instance in instances)) == [[n, n * n] for n in range(100)]
        assert host.loader.statistics().warm <= 8


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something to become true; the test's own time limit is the other end."""
    while not holds():  # noqa: ASYNC110 - it is not ours to set an event in the program
        await asyncio.sleep(0.01)


def descriptors() -> int:
    """How many this process has, without those of control groups, which are kept for each slot that was ever used: on a
    busy machine more are dying at once, and more are used."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that was opened to look
            found.append(str(link.readlink()))
    return sum("cgroup" not in each and "eventfd" not in each for each in found)


async def test_a_sleeping_instance_holds_nothing(path: Path) -> None:
    """Two hundred sleepers have no process, no descriptor and no run in the host: no more than a hundred had."""
    program = """
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await step.sleep("long", "1 day")
"""
    policy = Policy(most_spares=1)  # so that there are as many of them at both looks
    async with Host(path, get_code=lambda _: code(Ledger(), program), max_sandboxes=4, spares=1, policy=policy) as host:
        zygote = psutil.Process(host.loader._profiles.plain.zygote_pid)
        await until(lambda: host.loader.statistics().spares == 1)
        alone = len(zygote.children(recursive=True)) - 1
        held = []
        for hundred in range(1, 3):
            for n in range(100):
                await host.workflows(f"t-{n % 10}").create()
            await until(lambda: host.engine.statistics().parked >= 100 * hundred)  # noqa: B023 - awaited in here
            await until(lambda: not host.engine.statistics().running)
            for n in range(10):
                host.loader.evict(f"t-{n}")
            await until(lambda: len(zygote.children(recursive=True)) - alone == host.loader.statistics().spares == 1)
            held.append(descriptors())
        assert host.loader.statistics().warm == 0
        assert held[1] <= held[0] + 4


async def test_code_is_pinned_and_new_instances_get_the_new(path: Path) -> None:
    """An instance that slept through a redeploy ends on the code it began with, also after the host was restarted."""
    program = """
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await step.wait_for_event("go", "go")
        return [VERSION, self.env.PLAN]
"""

    def deployed(version: int) -> WorkerCode:
        modules = {"main.py": f"VERSION = {version}\n{program}"}
        return WorkerCode(main_module="main.py", modules=modules, env={"PLAN": f"plan {version}"})

    async with Host(path, get_code=lambda _: deployed(1), spares=1) as host:
        await host.workflows("t").create(id="old")
        await until(lambda: host.engine.statistics().parked >= 1)
    async with Host(path, get_code=lambda _: deployed(2), spares=1) as host:
        workflows = host.workflows("t")
        old, new = await workflows.get("old"), await workflows.create(id="new")
        for instance in (old, new):
            await instance.send_event(type="go")
        assert await old.result() == [1, "plan 2"]
        assert await new.result() == [2, "plan 2"]


async def test_a_poisonous_tenant_ends_and_its_neighbour_goes_on(path: Path) -> None:
    """A run that takes its sandbox down each time ends as CrashLoop; nobody else is touched."""
    programs = {
        "poison": "from workers import WorkflowEntrypoint\nimport os\n"
        "class TenantWorkflow(WorkflowEntrypoint):\n    async def run(self, event, step):\n        os._exit(9)\n",
        "neighbour": PROGRAM,
    }
    ledger, clock = Ledger(), VirtualClock()
    engine, config = Engine(path, clock=clock), LoaderConfig(restart_most_s=0.25)

    def get_code(who: str) -> WorkerCode:
        return code(ledger, programs[who])

    async with Host(path, get_code=get_code, spares=2, engine=engine, config=config) as host:
        poison = await host.workflows("poison").create()
        neighbour = await host.workflows("neighbour").create(params={"steps": 5, "name": "n"})
        while (await poison.status())["status"] != "errored":
            await clock.advance(1)
            await asyncio.sleep(0.005)
        error = (await poison.status())["error"]
        assert error["name"] == "CrashLoop"
        assert "exited with 9" in error["message"]
        assert (await neighbour.result())["total"] == 10
        assert engine.statistics().lost == 10
