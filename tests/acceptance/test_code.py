"""Which code an instance goes on with when the tenant's has changed, and how that is known before."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from cloister.engine import Rehearsal
from cloister.loader import Host, Loader, WorkerCode, wrap_workflow_binding
from cloister.loader.dispatch import create_dynamic_workflow_entrypoint

PROGRAM = """
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.do("{first}", lambda: self.env.LEDGER.note("{first}"))
            await step.sleep("night", "8 hours")
            return [await step.do("report", lambda: "{word}"), "{word}"]
"""


HANGS = """
    import asyncio
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            await asyncio.get_running_loop().create_future()
"""


def program(word: str, first: str = "collect") -> str:
    return PROGRAM.replace("{word}", word).replace("{first}", first)


@pytest.mark.parametrize(
    ("policy", "newer", "output"),
    [
        ("pinned", program("new"), ["old", "old"]),
        ("latest", program("new"), ["new", "new"]),
        ("migrate", program("new"), ["new", "new"]),
        ("migrate", program("new", "gather"), ["old", "old"]),
        ("migrate", "no python", ["old", "old"]),
        ("migrate", HANGS, ["old", "old"]),
    ],
)
async def test_a_sleeper_wakes_on_the_code_that_the_host_wants(
    stage: Any, policy: Any, newer: str, output: list[str]
) -> None:
    """Its own, or the newest; `migrate` moves it only if the newest comes by everything that is recorded."""
    stub = stage.loader.get
    stage.source = program("old")
    entrypoint = create_dynamic_workflow_entrypoint(
        lambda _: stub(stage.name, stage.code).get_entrypoint("TenantWorkflow", code=policy)
    )
    binding = wrap_workflow_binding(stage.engine.workflow("w", entrypoint), {"tenant_id": stage.name})
    instance = await binding.create()
    await stage.rests(instance)
    stage.source = newer
    assert stage.evict()
    assert await stage.outcome(instance) == output
    assert stage.ledger.entries == ["collect"]


async def test_latest_code_that_does_not_fit_is_an_error_and_no_wrong_result(stage: Any) -> None:
    """It says which step was not reached."""
    stage.source = program("old")
    entrypoint = create_dynamic_workflow_entrypoint(
        lambda _: stage.loader.get(stage.name, stage.code).get_entrypoint("TenantWorkflow", code="latest")
    )
    binding = wrap_workflow_binding(stage.engine.workflow("w", entrypoint), {"tenant_id": stage.name})
    instance = await binding.create()
    await stage.rests(instance)
    stage.source = program("new", "gather")
    assert stage.evict()
    error = await stage.outcome(instance)
    assert error["name"] == "NonDeterminismError"
    assert "'collect'" in error["message"]


async def test_an_unknown_policy_is_refused(loader: Loader) -> None:
    """With the ones that there are."""
    stub = loader.get("t", lambda: WorkerCode(main_module="main.py", modules={"main.py": ""}))
    with pytest.raises(ValueError, match="pinned, latest, migrate"):
        stub.get_entrypoint("X", code="newest")  # type: ignore[arg-type]


async def test_a_host_rehearses_a_deploy_against_every_unfinished_instance(stage: Any, path: Any) -> None:
    """What fits and what does not, by id, without running anything."""
    code = {"t": program("old")}

    def worker_code(source: str) -> WorkerCode:
        import textwrap

        modules = {"main.py": textwrap.dedent(source)}
        return WorkerCode(main_module="main.py", modules=modules, env={"LEDGER": stage.ledger})

    async with Host(path.with_name("host.db"), get_code=lambda tenant: worker_code(code[tenant]), spares=1) as host:
        binding = host.workflows("t")
        instance = await binding.create(id="sleeper")
        finished = await binding.create(id="finished")
        for each in (instance, finished):
            while (await each.status())["status"] != "waiting":
                await stage.clock.run_until_idle()
        await finished.terminate()
        before = await instance.status()
        good = await host.rehearse("t", worker_code(program("new")))
        bad = await host.rehearse("t", worker_code(program("new", "gather")))
        assert good == {"sleeper": Rehearsal(fits=True)}
        assert bad == {"sleeper": Rehearsal(fits=False, missed=(("do", "collect", 1),))}
        assert await instance.status() == before
    assert stage.ledger.entries == ["collect"] * 2


async def test_many_tenants_begin_at_once_each_on_the_code_that_was_given_for_it(path: Any) -> None:
    """In one transaction; what they were given is what they run, though the host has newer code by then."""
    source = """
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return [await step.do("say", lambda: "{word}"), event.payload]
    """
    codes = {
        name: WorkerCode(main_module="main.py", modules={"main.py": textwrap.dedent(source).replace("{word}", name)})
        for name in ("a", "b", "newer")
    }
    async with Host(path, get_code=lambda _: codes["newer"], spares=1) as host:
        begun = [(name, codes[name], {"id": "x", "params": name * 2}) for name in ("a", "b")]
        assert await host.begin_each(begun) == [True, True]
        assert await host.begin_each(begun) == [False, False]
        for name in ("a", "b"):
            assert await (await host.workflows(name).get("x")).result(30) == [name, name * 2]
