"""Runtime profiles: what is not written in Python is imported before the lockdown, for all who need it."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest

from cloister.loader import InvalidCode, Loader, LoaderConfig, Policy, SandboxUnavailable, WorkerCode

Code = Callable[..., WorkerCode]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]

USES = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def use(self):
            import psutil, psutil._psutil_linux
            return [psutil.__version__, psutil.__file__]
        async def later(self):
            import rich.table, rich.emoji
            return rich.table.__file__
        async def missing(self):
            import psutil
            return "found"
"""
PLAIN = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def get(self): return 1
"""


async def test_code_finds_what_it_asks_for_and_other_code_does_not(code: Code) -> None:
    """Its C part is there, its other modules come from memory, and no path of the host is told."""
    async with Loader(spares=1) as loader:
        heavy = loader.get("heavy", lambda: code(USES, preload=("psutil", "rich"))).get_entrypoint()
        version, file = await heavy.use()
        assert version == psutil.__version__
        assert file == "<library>/psutil/__init__.py"
        assert await heavy.later() == "<library>/rich/table.py"
        light = loader.get("light", lambda: code(USES)).get_entrypoint()
        with pytest.raises(Exception, match="No module named 'psutil'"):
            await light.missing()


async def test_a_profile_is_started_once_for_all_who_need_it(code: Code) -> None:
    """Whatever the order of the names, and only when somebody does; closing ends it with its sandboxes."""
    own = psutil.Process()
    before = len(own.children())
    async with Loader(spares=0) as loader:
        assert len(own.children()) == before + 1
        for tenant, names in (("a", ("psutil", "rich")), ("b", ("rich", "psutil"))):
            await loader.get(tenant, lambda names=names: code(USES, preload=names)).get_entrypoint().use()  # type: ignore[misc]
            assert len(own.children()) == before + 2
    assert len(own.children()) == before


async def test_a_profile_that_nobody_uses_is_let_go_of_and_comes_back(code: Code, eventually: Eventually) -> None:
    """Not while a sandbox of it lives, nor soon after; then its zygote ends, spares and all, until it is needed."""
    own = psutil.Process()
    before = len(own.children())
    async with Loader(spares=1) as loader:

        def look_later(seconds: float) -> int:
            """The number of zygotes after a look that is so much later than the last."""
            for spawner in loader._profiles:
                spawner._used -= seconds
            loader._profiles.let_go()
            return len(list(loader._profiles))

        heavy = loader.get("heavy", lambda: code(USES, preload=("psutil", "rich")))
        await heavy.get_entrypoint().use()
        assert look_later(600) == 2
        for spawner in loader._profiles:
            spawner._tend()
        loader.evict("heavy")
        await eventually(lambda: all(spawner.idle_s for spawner in loader._profiles))
        assert look_later(150) == 2
        assert look_later(300) == 1
        await eventually(lambda: len(own.children()) == before + 1)
        await heavy.get_entrypoint().use()
        assert len(list(loader._profiles)) == 2
        await loader.get("light", lambda: code(PLAIN)).get_entrypoint().get()


async def test_a_loader_that_closes_waits_for_the_profile_that_is_ending(code: Code, eventually: Eventually) -> None:
    """Nothing of it is left then."""
    own = psutil.Process()
    before = len(own.children())
    async with Loader(config=LoaderConfig(spares=1, profile_idle_s=0.0)) as loader:
        await loader.get("heavy", lambda: code(USES, preload=("psutil", "rich"))).get_entrypoint().use()
        loader.evict("heavy")
        await eventually(lambda: all(spawner.idle_s for spawner in loader._profiles))
        loader._profiles.let_go()
        assert len(list(loader._profiles)) == 1
    assert len(own.children()) == before


async def test_a_package_for_everybody_is_named_in_the_policy(code: Code) -> None:
    """Then one zygote is enough."""
    own = psutil.Process()
    before = len(own.children())
    async with Loader(spares=1, policy=Policy(preload=("psutil",))) as loader:
        for names in ((), ("psutil",)):
            stub = loader.get(f"t {names}", lambda names=names: code(USES, preload=names))  # type: ignore[misc]
            assert (await stub.get_entrypoint().use())[0] == psutil.__version__
        assert len(own.children()) == before + 1


async def test_a_package_that_is_not_there_is_named(code: Code) -> None:
    """The caller is told which and why; other tenants are served, and it is looked for again."""
    async with Loader(spares=0) as loader:
        for _ in range(2):
            with pytest.raises(SandboxUnavailable, match=r"'no_such_thing' cannot be preloaded: ModuleNotFoundError"):
                await loader.get("t", lambda: code(USES, preload=("no_such_thing",))).get_entrypoint().use()
    with pytest.raises(SandboxUnavailable, match="no_such_thing"):
        await Loader(policy=Policy(preload=("no_such_thing",))).__aenter__()


async def test_a_package_that_starts_threads_is_refused(code: Code, tmp_path: Any, monkeypatch: Any) -> None:
    """A process with threads cannot be forked."""
    (tmp_path / "threaded.py").write_text(
        textwrap.dedent("""
            import threading, time
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Loader(spares=0) as loader:
        with pytest.raises(SandboxUnavailable, match="started 1 threads, and a process with threads cannot be forked"):
            await loader.get("t", lambda: code(USES, preload=("threaded",))).get_entrypoint().use()


async def test_generators_of_random_numbers_are_no_twins_in_a_profile_either(
    code: Code, tmp_path: Any, monkeypatch: Any
) -> None:
    """A package that cares for its own at a fork is let; what `random` draws is different as well."""
    (tmp_path / "lottery.py").write_text(
        textwrap.dedent("""
            import os, random
            generator = random.Random(1)
            os.register_at_fork(after_in_child=generator.seed)
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = """
        import random
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            async def draw(self):
                import lottery
                return [lottery.generator.random(), random.random()]
    """
    async with Loader(spares=2) as loader:
        drawn = [
            await loader.get(f"t{n}", lambda: code(source, preload=("lottery",))).get_entrypoint().draw()
            for n in range(3)
        ]
    assert len({first for first, _ in drawn}) == len({second for _, second in drawn}) == 3
    assert random.Random(1).random() not in {first for first, _ in drawn}


@pytest.mark.parametrize("preload", [["numpy"], ("",), ("os; rm",), (1,), "numpy"])
def test_what_is_no_list_of_modules_is_refused(preload: Any) -> None:
    """In code and in a policy."""
    with pytest.raises(InvalidCode, match="preload is a tuple of names of modules"):
        WorkerCode(main_module="m.py", modules={"m.py": ""}, preload=preload)
    with pytest.raises(ValueError, match=r"Policy\.preload is a tuple of names of modules"):
        Policy(preload=preload)


def test_what_is_preloaded_is_part_of_what_the_code_is() -> None:
    """Its digest differs, and code that was stored finds it again."""
    plain = WorkerCode(main_module="m.py", modules={"m.py": ""})
    heavy = WorkerCode(main_module="m.py", modules={"m.py": ""}, preload=("b", "a"))
    assert plain.digest != heavy.digest
    assert plain.with_stored(heavy.stored()).preload == ("a", "b")
    assert heavy.with_stored(plain.stored()).preload == ()
