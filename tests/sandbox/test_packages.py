"""Packages that others wrote, brought along by a tenant as its modules: as they are, without a file to open.

They are taken from where this test itself runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Boot = Callable[..., Any]
_LEFT_OUT = {".pyc", ".pyi", ".so", ".typed"}


def brought(name: str) -> dict[str, list[Any]]:
    """A package's files as modules; what is compiled stays behind."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed here")
    origin = Path(spec.origin)
    root = origin.parent.parent if origin.name == "__init__.py" else origin.parent
    inside = sorted(origin.parent.rglob("*")) if origin.name == "__init__.py" else [origin]
    modules: dict[str, list[Any]] = {}
    for file in inside:
        if file.is_file() and file.suffix not in _LEFT_OUT:
            path, content = file.relative_to(root).as_posix(), file.read_bytes()
            modules[path] = ["py", content.decode()] if file.suffix == ".py" else ["data", content]
    for about in sorted(root.glob(f"{name}-*.dist-info/[MRe]*")):
        modules[about.relative_to(root).as_posix()] = ["text", about.read_text()]
    return modules


@pytest.mark.parametrize(
    ("packages", "body", "result"),
    [
        (["click"], """
            import click, click.testing
            @click.command()
            @click.option("--times", default=1)
            def hello(times): click.echo("hello " * times)
            return click.testing.CliRunner().invoke(hello, ["--times", "2"]).output
        """, "hello hello \n"),
        (["dateutil"], """
            import datetime, dateutil.parser, dateutil.rrule, dateutil.tz
            zone = dateutil.tz.gettz("Europe/Berlin")
            at = dateutil.parser.parse("2 Jan 2020 3pm").replace(tzinfo=zone)
            days = dateutil.rrule.rrule(dateutil.rrule.DAILY, count=2, dtstart=at)
            return [day.isoformat() for day in days]
        """, ["2020-01-02T15:00:00+01:00", "2020-01-03T15:00:00+01:00"]),
        (["markdown_it", "mdurl"], """
            import markdown_it
            return markdown_it.MarkdownIt().render("# hi *there*")
        """, "<h1>hi <em>there</em></h1>\n"),
        (["msgpack"], """
            import msgpack
            return [msgpack.unpackb(msgpack.packb({"a": [1, b"x"]})), msgpack.Packer.__module__]
        """, [{"a": [1, b"x"]}, "msgpack.fallback"]),
        (["packaging"], """
            from packaging import specifiers, tags, version
            return ["1.5" in specifiers.SpecifierSet(">=1.2"), next(tags.sys_tags()).interpreter[:2]]
        """, [True, "cp"]),
        (["pluggy"], """
            import pluggy
            class Spec:
                @pluggy.HookspecMarker("x")
                def add(self, a): ...
            class Plugin:
                @pluggy.HookimplMarker("x")
                def add(self, a): return a + 1
            manager = pluggy.PluginManager("x")
            manager.add_hookspecs(Spec)
            manager.register(Plugin())
            return [manager.hook.add(a=1), manager.load_setuptools_entrypoints("none")]
        """, [[2], 0]),
        (["pygments"], """
            from pygments import formatters, highlight, lexers
            return highlight("x = 1", lexers.get_lexer_by_name("python"), formatters.HtmlFormatter(nowrap=True))[:22]
        """, '<span class="n">x</spa'),
        (["rich", "pygments", "markdown_it", "mdurl"], """
            import io, rich.console, rich.table
            table = rich.table.Table("name")
            table.add_row("value")
            stream = io.StringIO()
            rich.console.Console(file=stream, width=20).print(table)
            return "value" in stream.getvalue()
        """, True),
        (["sqlite_utils", "sqlite_fts4", "tabulate", "click", "click_default_group", "pluggy", "dateutil"], """
            import sqlite_utils
            database = sqlite_utils.Database(memory=True)
            database["birds"].insert_all([{"name": "wren"}, {"name": "rook"}], pk="name")
            return [row["name"] for row in database["birds"].rows_where(order_by="name")]
        """, ["rook", "wren"]),
        (["tabulate"], """
            import tabulate
            return tabulate.tabulate([["a", 1]], tablefmt="plain")
        """, "a  1"),
        (["cachetools", "sortedcontainers", "iniconfig", "pathspec", "typing_extensions"], """
            import cachetools, iniconfig, pathspec, sortedcontainers, typing_extensions
            class Shape(typing_extensions.TypedDict): sides: int
            cache = cachetools.LRUCache(1)
            cache["a"] = cache["b"] = 1
            matches = pathspec.PathSpec.from_lines("gitwildmatch", ["*.py"]).match_file("a/b.py")
            return [list(cache), matches, list(sortedcontainers.SortedList([2, 1])), list(Shape.__annotations__)]
        """, [["b"], True, [1, 2], ["sides"]]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value and isinstance(value[0], str) else "",
)  # fmt: skip
async def test_popular_packages_run_as_modules_of_a_tenant(
    boot: Boot, packages: list[str], body: str, result: Any
) -> None:
    """Imported and used, with what they read of their own files and of the time zones."""
    modules: dict[str, Any] = {}
    for name in packages:
        modules |= brought(name)
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def get(self):{body}
    """
    tenant = await boot(source, modules=modules)
    assert await tenant.invoke("get") == result


async def test_a_package_finds_its_own_version(boot: Boot) -> None:
    """If what lies beside it was brought along too, as many ask for it when they are imported."""
    source = """
    from workers import WorkerEntrypoint
    import importlib.metadata, click
    class Default(WorkerEntrypoint):
        def get(self): return importlib.metadata.version("click")
    """
    tenant = await boot(source, modules=brought("click"))
    assert await tenant.invoke("get") == importlib.metadata.version("click")
