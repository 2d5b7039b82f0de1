"""A tenant's own modules, imported from memory as if they lay in a folder, and the files beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc import RemoteError

Boot = Callable[..., Any]

FILES = {
    "shop/__init__.py": ["py", "from .prices import PRICES\nNAME = __name__"],
    "shop/prices.py": ["py", "from . import units\nPRICES = {'tea': 3 * units.CENTS}\nFILE = __file__"],
    "shop/units.py": ["py", "CENTS = 100"],
    "plain/inner/leaf.py": ["py", "from ..other import OTHER\nLEAF = OTHER + 1"],
    "plain/other.py": ["py", "OTHER = 41"],
    "motd.txt": ["text", "Grüße"],
    "shop/logo.bin": ["data", b"\x00\xff"],
    "shop/table.json": ["json", {"a": [1, None]}],
    "colorsys.py": ["py", "MINE = True"],
    "json.py": ["py", "MINE = 'json'"],
    "workers.py": ["py", "raise RuntimeError('not this one')"],
    "email/welcome.txt": ["text", "a folder of files, not a package"],
    "shop/pages/front.html": ["text", "<p>"],
    "shop/pages/sample.py": ["text", "it is (no module"],
    "csv/__init__.py": ["py", "MINE = 'csv'"],
    "html/__init__.py": ["py", "MINE = 'html'"],
    "tea_time-1.2.dist-info/METADATA": ["text", "Metadata-Version: 2.1\nName: tea-time\nVersion: 1.2\n"],
    "tea_time-1.2.dist-info/entry_points.txt": ["text", "[drinks]\ntea = shop.prices:PRICES\n"],
}


async def files(boot: Boot, body: str, **more: Any) -> Any:
    source = f"from workers import WorkerEntrypoint\nclass Default(WorkerEntrypoint):\n    def get(self):\n{body}"
    tenant = await boot(source, modules=FILES, **more)
    return await tenant.invoke("get")


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("        import shop; return shop.PRICES", {"tea": 300}),
        ("        import shop.prices; return [shop.NAME, shop.prices.__name__, shop.prices.FILE]",
         ["shop", "shop.prices", "shop/prices.py"]),
        ("        from shop import units; return units.__package__", "shop"),
        ("        from plain.inner import leaf; return leaf.LEAF", 42),
        ("        import plain; return plain.__spec__.origin", None),
        ("        import colorsys; return [colorsys.MINE, hasattr(colorsys, 'rgb_to_hsv')]", [True, False]),
        ("        import json; return json.MINE", "json"),
        ("        import pkgutil; return pkgutil.get_data(__name__, 'motd.txt').decode()", "Grüße"),
        ("        import pkgutil; return pkgutil.get_data('shop', 'logo.bin')", b"\x00\xff"),
        ("        import pkgutil; return pkgutil.get_data('shop', 'table.json')", b'{"a": [1, null]}'),
        ("        import inspect, shop.units; return inspect.getsource(shop.units)", "CENTS = 100\n"),
        ("        import importlib, shop.units; return importlib.reload(shop.units).CENTS", 100),
        ("        return [__name__, __file__, __spec__.name, __package__]", ["main", "main.py", "main", ""]),
        ("        import sys; return sys.modules[__name__].Default is Default", True),
        ("        import main; return main.Default is Default", True),
        ("        import email.message, email; return [email.__file__, hasattr(email, 'message')]",
         ["<library>/email/__init__.py", True]),
        ("        import html, importlib.util; return [html.MINE, importlib.util.find_spec('html.parser')]",
         ["html", None]),
        ("        import shop; return [shop.__path__, shop.__file__, shop.__spec__.origin]",
         [["shop"], "shop/__init__.py", "shop/__init__.py"]),
        ("        import shop, pkgutil; return [list(m)[1:] for m in pkgutil.iter_modules(shop.__path__, 'shop.')]",
         [["shop.pages", True], ["shop.prices", False], ["shop.units", False]]),
        ("        import plain, pkgutil; return [m.name for m in pkgutil.walk_packages(plain.__path__, 'plain.')]",
         ["plain.inner", "plain.inner.leaf", "plain.other"]),
        ("        import pkgutil; return {'shop', 'main', 'xml'} <= {m.name for m in pkgutil.iter_modules()}", True),
        ("        import importlib.util as u; return [u.find_spec('shop.pages.sample'), u.find_spec('shop.none')]",
         [None, None]),
        ("        import pkgutil; return pkgutil.get_data('shop', '../motd.txt').decode()", "Grüße"),
        ("        import os, shop.prices as m; return m.__loader__.get_data(os.path.abspath(m.__file__))[:18]",
         b"from . import units"[:18]),
        ("        import runpy; return runpy.run_module('shop.units')['CENTS']", 100),
        ("        import linecache; return linecache.getline(__file__, 1)", "from workers import WorkerEntrypoint\n"),
        ("        import inspect; return inspect.getsource(type(self)).startswith('class Default')", True),
        ("        import importlib.metadata as m; return m.version('Tea.Time')", "1.2"),
        ("        import importlib.metadata as m; return m.entry_points(group='drinks')['tea'].load()", {"tea": 300}),
        ("        import importlib.metadata as m; return [d.name for d in m.distributions()]", ["tea-time"]),
        ("        import dataclasses\n        return dataclasses.make_dataclass('A', ['x'])(1).x", 1),
    ],
)  # fmt: skip
async def test_modules_are_imported_as_from_a_folder(boot: Boot, body: str, result: Any) -> None:
    """Packages, relative imports, folders without `__init__`, files as data, and names that the library has too."""
    assert await files(boot, body) == result


@pytest.mark.parametrize("main", ["shop/main.py", "plain/main.py", "shop/deep/main.py"])
async def test_the_main_module_may_lie_in_a_package(boot: Boot, main: str) -> None:
    """Relative imports work from there, and its package is imported before it."""
    up = "." * (main.count("/"))
    source = f"""
    from workers import WorkerEntrypoint
    from {up} import {"units" if "shop" in main else "other"} as sibling
    class Default(WorkerEntrypoint):
        def get(self): return [__name__, __package__, sibling.__name__]
    """
    tenant = await boot(source, main=main, modules=FILES)
    package = main.removesuffix("/main.py").replace("/", ".")
    top = package.partition(".")[0]
    assert await tenant.invoke("get") == [f"{package}.main", package, f"{top}.{'units' if top == 'shop' else 'other'}"]


async def test_a_package_can_be_the_main_module(boot: Boot) -> None:
    """Its `__init__` is what is imported."""
    source = """
    from workers import WorkerEntrypoint
    from .units import CENTS
    class Default(WorkerEntrypoint):
        def get(self): return [__name__, __package__, CENTS]
    """
    tenant = await boot(source, main="shop/__init__.py", modules=FILES)
    assert await tenant.invoke("get") == ["shop", "shop", 100]


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("files('shop').joinpath('table.json').read_text()", '{"a": [1, null]}'),
        ("files('shop').joinpath('pages/front.html').read_text()", "<p>"),
        ("(files('shop') / 'pages' / 'front.html').read_bytes()", b"<p>"),
        ("sorted(one.name for one in files('shop').iterdir())",
         ["__init__.py", "logo.bin", "pages", "prices.py", "table.json", "units.py"]),
        ("[one.name for one in files('shop').iterdir() if one.is_dir()]", ["pages"]),
        ("[one.name for one in files('plain').iterdir()]", ["inner", "other.py"]),
        ("files('shop').joinpath('logo.bin').open('rb').read(1)", b"\x00"),
        ("files('email').joinpath('welcome.txt').is_file()", False),
        ("files('shop').joinpath('none.txt').is_file()", False),
        ("files('shop').joinpath('../motd.txt').open(encoding='utf-8').read()", "Grüße"),
        ("resources.open_text('shop', 'table.json').read(4) if hasattr(resources, 'open_text') else '{\"a\"'", '{"a"'),
        ("resources.read_binary('shop', 'logo.bin') if hasattr(resources, 'read_binary') else b'\\0\\xff'", b"\0\xff"),
        ("resources.is_resource('shop', 'logo.bin') if hasattr(resources, 'is_resource') else True", True),
        ("files('tzdata.zoneinfo').joinpath('Europe').joinpath('Berlin').read_bytes()[:4]", b"TZif"),
    ],
)  # fmt: skip
async def test_files_beside_modules_are_resources(boot: Boot, body: str, result: Any) -> None:
    """Read, listed and opened as from a folder, by `importlib.resources`."""
    line = f"        from importlib import resources; from importlib.resources import files; return {body}"
    assert await files(boot, line) == result


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        (
            "[os.path.isdir(one) for one in ('shop', 'shop/pages/', './shop', '.', 'none', '/')]",
            [True] * 4 + [False, True],
        ),
        ("[os.path.isfile(one) for one in ('motd.txt', '/motd.txt', 'shop', 'none')]", [True, True, False, False]),
        ("[os.path.getsize('motd.txt'), os.stat('shop/logo.bin').st_size, os.stat('motd.txt').st_mtime]", [7, 2, 0.0]),
        ("sorted(os.listdir('shop/pages'))", ["front.html", "sample.py"]),
        ("'motd.txt' in os.listdir('/') and pathlib.Path('/motd.txt') in pathlib.Path('/').iterdir()", True),
        (
            "sorted(one.name for one in (pathlib.Path(__file__).parent / 'shop').iterdir())[:2]",
            ["__init__.py", "logo.bin"],
        ),
        (
            "[(one.name, one.is_dir(), one.stat().st_size) for one in os.scandir('shop') if one.name == 'pages']",
            [["pages", True, 0]],
        ),
        ("(pathlib.Path(__file__).resolve().parent / 'shop/pages/front.html').read_text()", "<p>"),
        ("os.path.realpath('shop/../motd.txt')", "/motd.txt"),
        ("sorted(str(one) for one in pathlib.Path('shop').glob('*.bin'))", ["shop/logo.bin"]),
        ("sorted(str(one) for one in pathlib.Path('.').glob('**/*.html'))", ["shop/pages/front.html"]),
        ("[one.name for one in pathlib.Path(__file__).parent.rglob('front.*')]", ["front.html"]),
        ("glob.glob('shop/**/*.html', recursive=True)", ["shop/pages/front.html"]),
        (
            "[one[0] for one in os.walk('shop')], [sorted(one[2]) for one in os.walk('shop/pages')]",
            [["shop", "shop/pages"], [["front.html", "sample.py"]]],
        ),
        ("(pathlib.Path('shop') / 'none').exists()", False),
        ("os.path.exists('/<library>/tzdata/zoneinfo/Europe/Berlin')", True),
    ],
)
async def test_files_beside_modules_are_where_programs_look_for_them(boot: Boot, expression: str, result: Any) -> None:
    """By their paths, from the folder that the main module is in, as web frameworks look for templates."""
    assert await files(boot, f"        import glob, os, pathlib; return {expression}") == result


async def test_what_is_missing_in_a_folder_that_came_along_is_not_found(boot: Boot) -> None:
    """As anywhere; web frameworks answer so. It cannot be made either."""
    for call in ("os.stat('shop/none')", "open('shop/pages/none.html')", "os.listdir('shop/none')"):
        with pytest.raises(RemoteError, match=r"^FileNotFoundError: .*none"):
            await files(boot, f"        import os; return {call}")
    with pytest.raises(RemoteError, match=r"^PermissionError: .*no file can be opened in a sandbox"):
        await files(boot, "        return open('shop/none', 'w')")


async def test_what_cannot_be_looked_at_is_an_error_as_ever(boot: Boot) -> None:
    """There are other files, and they are nobody's business."""
    for call in (
        "os.stat('/etc/passwd')",
        "os.listdir('/etc')",
        "os.lstat('none')",
        "os.stat(99)",
        "os.listdir('/proc')",
    ):
        with pytest.raises(RemoteError, match=r"PermissionError|FileNotFoundError|Bad file descriptor"):
            await files(boot, f"        import os; return {call}")


async def test_a_resource_cannot_become_a_file(boot: Boot) -> None:
    """Of which whoever asks would have a descriptor."""
    with pytest.raises(RemoteError, match=r"^OSError: a temporary file lies in memory, and has no descriptor"):
        await files(
            boot,
            "        from importlib import resources\n"
            "        with resources.as_file(resources.files('shop') / 'logo.bin') as path: return path",
        )


async def test_a_tenants_own_traceback_names_no_place_of_the_host(boot: Boot) -> None:
    """Through the library and back: its lines are shown, the library's only named."""
    body = """
        import tomllib, traceback
        try:
            tomllib.loads("a = ")
        except ValueError:
            return traceback.format_exc()
    """
    trace = await files(boot, body)
    assert 'File "main.py"' in trace
    assert 'tomllib.loads("a = ")' in trace
    assert 'File "<library>/tomllib/_parser.py"' in trace
    places = {line.split('"')[1] for line in trace.splitlines() if line.startswith("  File ")}
    assert all(place == "main.py" or place.startswith("<library>/") for place in places)


async def test_log_records_know_who_logged(boot: Boot) -> None:
    """The logging system tells its own frames from the tenant's by where they come from."""
    body = """
        import logging
        seen = []
        class Keep(logging.Handler):
            def emit(self, record): seen.append([record.pathname, record.funcName])
        logging.getLogger("own").addHandler(Keep())
        logging.getLogger("own").warning("x")
        return seen
    """
    assert await files(boot, body) == [["main.py", "get"]]


async def test_a_file_that_is_not_there_is_missed_in_the_usual_way(boot: Boot) -> None:
    """As by a folder."""
    with pytest.raises(RemoteError, match=r"^FileNotFoundError"):
        await files(boot, "        import pkgutil; return pkgutil.get_data('shop', 'none.txt')")
    with pytest.raises(RemoteError, match=r"^ModuleNotFoundError: No module named 'shop\.none'"):
        await files(boot, "        import shop.none")
