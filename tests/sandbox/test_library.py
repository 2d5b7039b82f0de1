"""What a tenant can import: the standard library from memory, and its own modules as if they lay in a folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc import RemoteError

Boot = Callable[..., Any]


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("import csv, io\ndef main(): return list(csv.reader(io.StringIO('a,b')))", [["a", "b"]]),
        ("import xml.etree.ElementTree as t\ndef main(): return t.fromstring('<a b=\"1\"/>').attrib", {"b": "1"}),
        ("import decimal\ndef main(): return str(decimal.Decimal('0.1') + decimal.Decimal('0.2'))", "0.3"),
        ("import fractions\ndef main(): return str(fractions.Fraction(1, 3) * 3)", "1"),
        ("import zoneinfo\ndef main(): return zoneinfo.ZoneInfo.__name__", "ZoneInfo"),
        ("import json\ndef main(): return json.loads('[1]')", [1]),
        ("import zlib, gzip, bz2, lzma\ndef main(): return lzma.decompress(lzma.compress(b'x'))", b"x"),
        ("import hashlib\ndef main(): return hashlib.sha256(b'').hexdigest()[:8]", "e3b0c442"),
        ("import hmac, secrets\ndef main(): return hmac.compare_digest('a', 'a')", True),
        ("import html.parser, email.message, urllib.parse\ndef main(): return urllib.parse.quote('/ ')", "/%20"),
        ("import statistics\ndef main(): return statistics.mean([1, 3])", 2),
        ("import textwrap, string, difflib\ndef main(): return textwrap.dedent('  a')", "a"),
        ("import tomllib\ndef main(): return tomllib.loads('a = 1')", {"a": 1}),
        ("import ast\ndef main(): return ast.literal_eval('[1]')", [1]),
        ("import unicodedata\ndef main(): return unicodedata.name('a')", "LATIN SMALL LETTER A"),
        ("def main(): return 'ä'.encode('idna'), 'ä'.encode('cp437'), b'a'.decode('mac-roman')",
         [b"xn--4ca", b"\x84", "a"]),
        ("import datetime\ndef main(): return datetime.datetime.strptime('2020-01-02', '%Y-%m-%d').day", 2),
        ("import pickle, copy, pprint\ndef main(): return pickle.loads(pickle.dumps([1]))", [1]),
        ("import heapq, bisect, array, queue\ndef main(): return heapq.nsmallest(1, [2, 1])", [1]),
        ("import sched, calendar, locale, gettext\ndef main(): return calendar.isleap(2024)", True),
        ("import doctest, pdb, timeit, cProfile\ndef main(): return 1", 1),
        ("import multiprocessing\ndef main(): return 1", 1),
    ],
    ids=lambda value: value.partition("\n")[0][:40] if isinstance(value, str) else "",
)  # fmt: skip
async def test_the_standard_library_is_there(tenant: Any, source: str, result: Any) -> None:
    """Imported when it is asked for, without a file to open, and working."""
    assert await tenant.do(source) == result


async def test_a_database_in_memory_works(tenant: Any) -> None:
    """One on disk does not."""
    source = """
    import sqlite3
    def main():
        database = sqlite3.connect(":memory:")
        database.execute("create table t (a)")
        database.executemany("insert into t values (?)", [(1,), (2,)])
        try:
            sqlite3.connect("x.db").execute("create table t (a)")
        except sqlite3.OperationalError as error:
            return [database.execute("select sum(a) from t").fetchone()[0], str(error)]
    """
    assert await tenant.do(source) == [3, "unable to open database file"]


async def test_threads_work(tenant: Any) -> None:
    """Bare ones, a pool's, and those that asyncio hands work to."""
    source = """
    import asyncio, threading
    from concurrent.futures import ThreadPoolExecutor
    async def main():
        found = []
        thread = threading.Thread(target=lambda: found.append(threading.current_thread().name), name="mine")
        thread.start()
        thread.join()
        with ThreadPoolExecutor(4) as pool:
            found += pool.map(abs, [-1, -2])
        found.append(await asyncio.to_thread(lambda: "from a thread"))
        found += await asyncio.gather(*(asyncio.to_thread(pow, 2, n) for n in range(3)))
        return found
    """
    assert await tenant.do(source) == ["mine", 1, 2, "from a thread", 1, 2, 4]


async def test_asyncio_works(tenant: Any) -> None:
    """Tasks, queues, locks, timeouts and sleeps; connections do not."""
    source = """
    import asyncio
    async def main():
        queue = asyncio.Queue()
        async def put():
            async with asyncio.Lock():
                await asyncio.sleep(0.001)
                await queue.put("x")
        async with asyncio.TaskGroup() as group:
            group.create_task(put())
            got = await queue.get()
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            got += " timed out"
        try:
            await asyncio.open_connection("127.0.0.1", 80)
        except OSError as error:
            return [got, type(error).__name__]
    """
    assert await tenant.do(source) == ["x timed out", "PermissionError"]


async def test_unittest_runs_a_suite(tenant: Any) -> None:
    """Its report goes where it is told to."""
    source = """
    import io, unittest
    class Case(unittest.TestCase):
        def test_good(self): self.assertEqual(1, 1)
        def test_bad(self): self.assertEqual(1, 2)
    def main():
        stream = io.StringIO()
        result = unittest.TextTestRunner(stream).run(unittest.defaultTestLoader.loadTestsFromTestCase(Case))
        return [result.testsRun, len(result.failures), "FAILED (failures=1)" in stream.getvalue()]
    """
    assert await tenant.do(source) == [2, 1, True]


@pytest.mark.parametrize(
    "name",
    ["ssl", "tkinter", "curses", "readline", "test.support", "zmq", "psutil", "cloister.engine", "cloister.loader",
     "cloister.sandbox.spawner", "cloister.ipc.transport"],
)  # fmt: skip
async def test_what_makes_no_sense_inside_is_not_there(tenant: Any, name: str) -> None:
    """Nor is the host's half of this package, nor its dependencies."""
    with pytest.raises(RemoteError, match=r"^(ModuleNotFoundError|ImportError): "):
        await tenant.do(f"import {name}\ndef main(): pass")


# The tenant's own modules

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
        ("        import inspect, shop.units; return inspect.getsource(shop.units)", "CENTS = 100"),
        ("        import importlib, shop.units; return importlib.reload(shop.units).CENTS", 100),
        ("        return [__name__, __file__, __spec__.name, __package__]", ["main", "main.py", "main", ""]),
        ("        import sys; return sys.modules[__name__].Default is Default", True),
        ("        import main; return main.Default is Default", True),
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


async def test_a_file_that_is_not_there_is_missed_in_the_usual_way(boot: Boot) -> None:
    """As by a folder."""
    with pytest.raises(RemoteError, match=r"^FileNotFoundError"):
        await files(boot, "        import pkgutil; return pkgutil.get_data('shop', 'none.txt')")
    with pytest.raises(RemoteError, match=r"^ModuleNotFoundError: No module named 'shop\.none'"):
        await files(boot, "        import shop.none")


# Errors


async def test_a_traceback_shows_the_tenants_lines_and_no_others(boot: Boot) -> None:
    """With their source, across modules and causes."""
    modules = {"shop/till.py": ["py", "def pay(amount):\n    if amount < 0:\n        raise ValueError(amount)\n"]}
    source = """
    from workers import WorkerEntrypoint
    from shop import till
    class Default(WorkerEntrypoint):
        def buy(self):
            try:
                till.pay(-1)
            except ValueError as error:
                raise RuntimeError("no sale") from error
    """
    tenant = await boot(source, modules=modules)
    with pytest.raises(RemoteError, match=r"^RuntimeError: no sale$") as told:
        await tenant.invoke("buy")
    trace = told.value.trace
    for part in ('File "shop/till.py", line 3, in pay', "raise ValueError(amount)", 'File "main.py", line 9, in buy',
                 'raise RuntimeError("no sale") from error', "ValueError: -1", "direct cause"):  # fmt: skip
        assert part in trace
    assert trace.count("File ") == trace.count('File "main.py"') + trace.count('File "shop/till.py"')
    assert "cloister" not in trace


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def broken(:\n", "SyntaxError: .*main.py, line 1"),
        ("x = 1\n\treturn", "IndentationError|TabError|SyntaxError"),
        ("'\0'", "ValueError|SyntaxError"),
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", "RuntimeError: the worker raised KeyboardInterrupt"),
        ("import sys; sys.exit(4)", r"RuntimeError: the worker called sys.exit\(4\); only the host ends a sandbox"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
        ("def f(): f()\nf()", "RecursionError"),
        ("[0] * 10**12", "MemoryError"),
        ("from workers import Nothing", "ImportError: cannot import name 'Nothing'"),
    ],
)
async def test_code_that_does_not_load_says_why(boot: Boot, source: str, words: str) -> None:
    """Whatever it does at import, the host is told as by an exception, and the sandbox has not died of it."""
    with pytest.raises(RemoteError, match=f"^{words}"):
        await boot(source)


@pytest.mark.parametrize(
    ("method", "name", "words"),
    [
        ("nothing", None, "TypeError: Method nothing does not exist"),
        ("_private", None, "TypeError: Method _private does not exist"),
        ("__init__", None, "TypeError: Method __init__ does not exist"),
        ("ctx", None, "TypeError: Method ctx does not exist"),
        ("get", "Missing", r"NoSuchEntrypoint: Worker has no such entrypoint: Missing \(main.py defines: Def"),
        ("get", "Helper", "NoSuchEntrypoint"),
        ("leave", None, r"RuntimeError: the worker called sys.exit\(5\)"),
        ("unsendable", None, "CodecError: <class 'object'> cannot be sent"),
        ("huge", None, "CodecError: the value takes .* bytes; at most"),
    ],
)
async def test_calls_that_cannot_be_answered_say_why(boot: Boot, method: str, name: str | None, words: str) -> None:
    """And the sandbox answers the next one."""
    source = """
    import sys
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def get(self): return 1
        def _private(self): return 2
        def leave(self): sys.exit(5)
        def unsendable(self): return object()
        def huge(self): return bytes(17 << 20)
    class Other(Default): pass
    class Helper: pass
    """
    tenant = await boot(source)
    with pytest.raises(RemoteError, match=f"^{words}"):
        await tenant.invoke(method, name=name)
    assert await tenant.invoke("get") == 1
    assert await tenant.invoke("get", name="Other") == 1
