"""What a tenant can import of the standard library, from memory, and what its errors look like."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.ipc import RemoteError
from cloister.sandbox import Limits
from cloister.sandbox.guest import archive, library, native

Boot = Callable[..., Any]
README = Path(__file__).parent.parent.parent / "README.md"


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("import csv, io\ndef main(): return list(csv.reader(io.StringIO('a,b')))", [["a", "b"]]),
        ("import xml.etree.ElementTree as t\ndef main(): return t.fromstring('<a b=\"1\"/>').attrib", {"b": "1"}),
        ("import decimal\ndef main(): return str(decimal.Decimal('0.1') + decimal.Decimal('0.2'))", "0.3"),
        ("import fractions\ndef main(): return str(fractions.Fraction(1, 3) * 3)", "1"),
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
        ("import multiprocessing.pool, multiprocessing.queues, multiprocessing.shared_memory\ndef main(): return 1", 1),
        ("import email.parser as e\ndef main(): return e.Parser().parsestr('A: b')['a']", "b"),
        ("import xml.dom.minidom as d\ndef main(): return d.parseString('<a/>').documentElement.tagName", "a"),
        ("import html\ndef main(): return html.unescape('&auml;')", "ä"),
        ("import secrets, uuid\ndef main(): return len(secrets.token_hex(8)) + uuid.uuid4().version", 20),
        ("import graphlib\ndef main(): return list(graphlib.TopologicalSorter({1: {2}}).static_order())", [2, 1]),
        ("import colorsys, cmath, numbers\ndef main(): return abs(cmath.sqrt(-1))", 1.0),
        ("import contextvars, contextlib\ndef main(): return contextvars.ContextVar('a', default=1).get()", 1),
        ("import pathlib\ndef main(): return [str(pathlib.Path('a/../b').resolve()), pathlib.Path('/etc').exists()]",
         ["/b", False]),
        ("import os\ndef main(): return [os.getcwd(), os.path.abspath('a'), os.path.exists('/'), os.uname().nodename]",
         ["/", "/a", True, "sandbox"]),
        ("import sysconfig\ndef main(): return sysconfig.get_paths()['data']", "/usr"),
        ("import sysconfig\ndef main(): return sysconfig.get_config_var('srcdir')", "/usr"),
        ("import sysconfig\ndef main(): return sysconfig.get_path('purelib').split('/')[-1]", "site-packages"),
        ("import platform\ndef main(): return platform.node()", "sandbox"),
        ("import pydoc\ndef main(): return 'csv' in pydoc.render_doc('csv')", True),
        ("import unittest.mock\ndef main(): return unittest.mock.Mock(return_value=3)()", 3),
        ("import code\ndef main(): return code.InteractiveInterpreter({}).runsource('if 1:')", True),
        ("import tracemalloc, gc, weakref\ndef main(): return tracemalloc.is_tracing()", False),
        ("import importlib, json\ndef main(): return importlib.reload(json).loads('1')", 1),
        ("import urllib.request, http.client, smtplib, ftplib\ndef main(): return 1", 1),
    ],
    ids=lambda value: value.partition("\n")[0][:40] if isinstance(value, str) else "",
)  # fmt: skip
async def test_the_standard_library_is_there(tenant: Any, source: str, result: Any) -> None:
    """Imported when it is asked for, without a file to open, and working."""
    assert await tenant.do(source) == result


async def test_archives_in_memory_work(tenant: Any) -> None:
    """Written and read again, compressed in every way."""
    source = """
    import io, tarfile, zipfile
    def main():
        found = []
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            kept = io.BytesIO()
            with zipfile.ZipFile(kept, "w", method) as archive:
                archive.writestr("a", "zipped")
            found.append(zipfile.ZipFile(kept).read("a"))
        for method in ("", "gz", "bz2", "xz"):
            kept = io.BytesIO()
            with tarfile.open(fileobj=kept, mode=f"w:{method}") as archive:
                about = tarfile.TarInfo("a")
                about.size = 3
                archive.addfile(about, io.BytesIO(b"tar"))
            kept.seek(0)
            found.append(tarfile.open(fileobj=kept).extractfile("a").read())
        return found
    """
    assert await tenant.do(source) == [b"zipped"] * 4 + [b"tar"] * 4


async def test_what_came_along_is_read_by_its_path(boot: Boot) -> None:
    """As if it lay beside the code; nothing else is, and nothing is written."""
    source = """
    import pathlib
    def main():
        here = pathlib.Path("main.py").parent
        found = [(here / "page.html").read_text(), open("data/x.bin", "rb").read(), open("/page.html").read(2)]
        for path, mode in (("page.html", "w"), ("page.html", "a"), ("none.html", "r"), ("/etc/passwd", "r")):
            try:
                open(path, mode)
            except PermissionError as error:
                found.append(error.strerror.partition(":")[0])
        return found
    """
    modules = {"page.html": ["text", "hällo"], "data/x.bin": ["data", b"\x00"]}
    tenant = await boot(modules=modules)
    assert await tenant.do(source) == ["hällo", b"\x00", "hä"] + ["no file can be opened in a sandbox, but in /tmp"] * 4


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


async def test_every_module_of_the_library_is_there_but_those_in_the_table(tenant: Any) -> None:
    """All that this version of Python has, and the host has too; each of the absent says why, and is not found."""
    source = """
    import importlib
    def main(names):
        told = {}
        for name in names:
            try:
                importlib.import_module(name)
            except BaseException as error:
                told[name] = f"{type(error).__name__}: {error}"
        return told
    """
    names = sorted(sys.stdlib_module_names)
    not_built = {name for name in names if name not in native.ABSENT and importlib.util.find_spec(name) is None}
    told = await tenant.do(source, names)
    absent = {name: reason for name, reason in native.ABSENT.items() if name in sys.stdlib_module_names}
    assert set(told) - not_built == set(absent)
    for name, reason in absent.items():
        assert told[name] == f"ModuleNotFoundError: No module named {name!r} in a sandbox: {reason}"
    probe = "import importlib.util\ndef main(names): return [importlib.util.find_spec(name) for name in names]"
    assert await tenant.do(probe, sorted(absent)) == [None] * len(absent)


def test_what_is_absent_is_so_where_it_is_part_of_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `spwd` and `syslog` are of Debian's."""
    assert library._BuiltIn.find_spec("_io") is not None
    monkeypatch.setitem(native.ABSENT, "_io", "a test")
    assert library._BuiltIn.find_spec("_io") is None


def test_the_table_of_absent_modules_is_the_readmes() -> None:
    """Word for word; their halves in C and what belongs to other systems is not worth a tenant's time."""
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", README.read_text(), re.MULTILINE)
    table = {name: reason for names, reason in rows for name in re.findall(r"`(\w+)`", names)}
    public = {name: why for name, why in native.ABSENT.items() if not name.startswith("_") and "system's" not in why}
    assert {name: why for name, why in table.items() if name in public} == public


async def test_time_zones_are_there(tenant: Any) -> None:
    """All of them, with their names, though no file can be opened; what is not one is missed in the usual way."""
    source = """
    import datetime, zoneinfo
    def main():
        summer = datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
        missed = []
        for name in ("Europe/Nowhere", "Europe", "../etc/passwd"):
            try:
                zoneinfo.ZoneInfo(name)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
                missed.append(type(error).__name__)
        names = zoneinfo.available_timezones()
        return [str(summer.utcoffset()), [zoneinfo.ZoneInfo(name).key for name in sorted(names)], missed]
    """
    offset, names, missed = await tenant.do(source)
    assert offset == "2:00:00"
    assert set(names) >= zoneinfo.available_timezones() - {"localtime", "posixrules"}
    assert missed == ["ZoneInfoNotFoundError", "ZoneInfoNotFoundError", "ValueError"]


def test_time_zones_come_from_a_package_where_the_system_has_none(no_zones: None) -> None:
    """As `zoneinfo` itself does it; which of them is the host's own is not among them."""
    pytest.importorskip("tzdata")
    found = dict(archive._zones())
    assert "tzdata/zoneinfo/Europe/Berlin" in found
    assert not [name for name in found if "localtime" in name]


@pytest.fixture
def no_zones() -> Iterator[None]:
    """A system without time zones."""
    zoneinfo.reset_tzpath(())
    yield
    zoneinfo.reset_tzpath()


async def test_all_encodings_are_there(tenant: Any) -> None:
    """But for two that only another system has."""
    source = """
    import codecs, encodings, pkgutil
    def main():
        missing = []
        for module in pkgutil.iter_modules(encodings.__path__):
            try:
                codecs.lookup(module.name)
            except LookupError:
                missing.append(module.name)
        return missing
    """
    assert set(await tenant.do(source)) <= {"aliases", "mbcs", "oem"}


async def test_what_would_need_a_file_says_what_to_do_instead(tenant: Any) -> None:
    """A descriptor of one too; a temporary file without a name stays in memory, whatever its size."""
    source = """
    import gzip, io, pathlib, tempfile
    def told(way):
        try:
            return repr(way())
        except OSError as error:
            return f"{type(error).__name__}: {error}"
    def main():
        with tempfile.SpooledTemporaryFile(max_size=100) as file:
            file.write(b"kept")
            file.write(b"x" * 1000)
            file.seek(0)
            kept = file.read(6)
        with tempfile.TemporaryFile("w+", encoding="latin-1") as text:
            text.write("Tee\u00e4")
            text.seek(0)
            read = text.read()
        opened = {told(way) for way in (
            lambda: open("x"), lambda: open("x", "w"), lambda: io.open("x"), lambda: pathlib.Path("x").read_text(),
            lambda: gzip.open("x"),
        )}
        return [kept + read.encode(), opened, told(tempfile.mkstemp), told(lambda: open(99))]
    """
    kept, opened, temporary, bad = await tenant.do(source)
    assert kept == b"keptxx" + "Teeä".encode()
    assert len(opened) == 1
    assert re.match(
        r"PermissionError: \[Errno 13\] no file can be opened in a sandbox, but in /tmp: .*io.BytesIO.*: 'x'", *opened
    )
    assert temporary.startswith("OSError: a temporary file lies in memory, and has no descriptor: use tempfile.Named")
    assert bad == "OSError: [Errno 9] Bad file descriptor"


async def test_who_starts_a_process_or_opens_a_socket_is_told_what_to_do_instead(tenant: Any) -> None:
    """However it is tried; by a way that only says that it went wrong, a line in the log does."""
    source = """
    import asyncio, concurrent.futures, multiprocessing, os, socket, subprocess
    async def told(way):
        try:
            result = way()
            return await result if asyncio.iscoroutine(result) else repr(result)
        except OSError as error:
            return f"{type(error).__name__}: {error}"
    def pool():
        with concurrent.futures.ProcessPoolExecutor(1) as executor:
            return executor.submit(int).result()
    async def main():
        ways = (
            lambda: subprocess.run(["ls"]), lambda: subprocess.check_output("ls", shell=True), os.fork,
            lambda: os.popen("ls").read(), lambda: os.spawnlp(os.P_WAIT, "ls", "ls"), lambda: os.execvp("ls", ["ls"]),
            lambda: os.posix_spawn("/bin/ls", ["ls"], {}), lambda: asyncio.create_subprocess_exec("ls"),
            multiprocessing.Process(target=int).start, multiprocessing.Pool, multiprocessing.Lock, pool,
        )
        return [[await told(way) for way in ways], os.system("ls"), await told(socket.socket)]
    """
    processes, status, connection = await tenant.do(source)
    words = r"PermissionError: \[Errno \d+\] no process can be started in a sandbox: .*asyncio\.to_thread.* a binding"
    for text in processes:
        assert re.match(words, text)
    assert status
    assert [line for line in tenant.text if "warning: " in line and "no process can be started" in line]
    assert connection.startswith("PermissionError: [Errno 1] no socket can be opened in a sandbox: fetch, urllib,")


async def test_temporary_files_lie_in_memory(tenant: Any) -> None:
    """By name, in folders, written and read and moved as anywhere; nothing leads out, and nobody else sees them."""
    source = """
    import glob, os, pathlib, shutil, tempfile, zipfile
    def told(way):
        try:
            return repr(way())
        except (OSError, ValueError) as error:
            return type(error).__name__
    def main():
        with tempfile.NamedTemporaryFile("w+", suffix=".txt", delete=False) as file:
            file.write("tea")
        found = [open(file.name).read(), file.name.endswith(".txt"), os.path.getsize(file.name), os.unlink(file.name)]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"tea for two")
            file.flush()
            file.seek(4)
            found += [file.read(3), pathlib.Path(file.name).read_bytes(), os.path.exists(file.name)]
        found.append(os.path.exists(file.name))
        with tempfile.TemporaryDirectory() as folder:
            here = pathlib.Path(folder)
            (here / "a.txt").write_text("one")
            (here / "sub" / "deep").mkdir(parents=True)
            os.makedirs(here / "sub" / "deep", exist_ok=True)
            (here / "sub" / "b.txt").write_bytes(b"two")
            found += [sorted(os.listdir(folder)), sorted(one.name for one in here.rglob("*.txt"))]
            found.append(len(list(os.walk(here))))
            (here / "a.txt").rename(here / "c.txt")
            shutil.copy(here / "c.txt", here / "d.txt")
            shutil.move(str(here / "d.txt"), str(here / "e.txt"))
            with open(here / "e.txt", "a") as file:
                file.write("!")
            with open(here / "e.txt", "r+b", buffering=0) as file:
                file.seek(1)
                file.write(b"NX")
                file.truncate(5)
            found += [(here / "e.txt").read_bytes(), [os.path.basename(one) for one in glob.glob(folder + "/[de]*")]]
            found.append([one.is_dir() for one in sorted(os.scandir(here), key=lambda one: one.name)])
            found.append(told(lambda: os.rmdir(here / "sub")))
        found.append(here.exists())
        with zipfile.ZipFile("/tmp/all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", "b" * 1000)
        with zipfile.ZipFile("/tmp/all.zip") as archive:
            found += [len(archive.read("a")), os.listdir("/tmp"), tempfile.gettempdir()]
        return found, [told(way) for way in (
            lambda: open("/tmp/none"), lambda: open("/tmp"), lambda: open("/tmp/all.zip", "x"),
            lambda: os.mkdir("/tmp"), lambda: os.mkdir("/tmp/no/where"), lambda: os.remove("/tmp/none"),
            lambda: os.listdir("/tmp/all.zip"),
            lambda: open("/tmp/../etc/passwd"), lambda: os.rename("/tmp/all.zip", "/etc/all.zip"),
            lambda: os.mkdir("/var/x"), lambda: open("/tmpother", "w"), lambda: shutil.rmtree("/etc"),
            lambda: os.rmdir("/tmp"), lambda: tempfile.NamedTemporaryFile(dir="/var"),
            lambda: tempfile.NamedTemporaryFile(dir="/tmp/none"), lambda: open("/tmp/all.zip", "rw"),
            lambda: open("/tmp/all.zip", "rb", 0).write(b"x"), lambda: open("/tmp/new", "wb", 0).read(1),
            lambda: open("/tmp/all.zip", "r+b", 0).truncate(-1), lambda: open("/tmp/all.zip", "rb", 0).truncate(1),
        )] + [len(open("/tmp/all.zip", "rb").read()) > 100]
    """
    found, refused = await tenant.do(source)
    assert found == [
        "tea", True, 3, None, b"for", b"tea for two", True, False, ["a.txt", "sub"], ["a.txt", "b.txt"], 3, b"oNX!\0",
        ["e.txt"], [False, False, True], "OSError", False, 1000, ["all.zip"], "/tmp",
    ]  # fmt: skip
    assert refused == [
        "FileNotFoundError", "IsADirectoryError", "FileExistsError", "FileExistsError", "FileNotFoundError",
        "FileNotFoundError", "NotADirectoryError", "PermissionError", "PermissionError", "PermissionError",
        "PermissionError", "PermissionError", "OSError", "PermissionError",
        "FileNotFoundError", "ValueError", "UnsupportedOperation", "UnsupportedOperation", "OSError",
        "UnsupportedOperation", True,
    ]  # fmt: skip


async def test_temporary_folders_are_copied_packed_and_moved_as_anywhere(tenant: Any) -> None:
    """With times that an archive can tell, and what is in them."""
    source = """
    import os, pathlib, shutil, tempfile
    def told(way):
        try:
            return repr(way())
        except OSError as error:
            return type(error).__name__
    def main():
        place = pathlib.Path(tempfile.mkdtemp())
        (place / "in" / "deep").mkdir(parents=True)
        (place / "in" / "deep" / "tea").write_text("green")
        shutil.copytree(place / "in", place / "copy")
        shutil.copy2(place / "in" / "deep" / "tea", place / "too")
        shutil.unpack_archive(shutil.make_archive("/tmp/packed", "zip", place), "/tmp/open")
        seen = os.stat("/tmp/packed.zip")
        times = [seen.st_mtime_ns // 10**9 == seen[8] == int(seen.st_mtime), os.stat(place).st_mtime > 10**9]
        shutil.move(place / "in", place / "moved")
        told_of = [told(lambda: os.rename(one, other)) for one, other in (
            (place, place / "in"), ("/tmp", place / "in"), (place / "moved", place / "copy"),
            (place / "moved", place / "too"), (place / "too", place / "copy"), (place / "none", place / "other"),
        )]
        told_of += [told(lambda: open(place / "none" / "x", mode)) for mode in "rwax"]
        found = sorted(str(one.relative_to("/tmp/open")) for one in pathlib.Path("/tmp/open").rglob("*"))
        kept = (place / "moved" / "deep" / "tea").read_text()
        return [found, sorted(os.listdir(place)), kept, times, told_of]
    """
    found, listed, kept, times, told = await tenant.do(source)
    assert found == ["copy", "copy/deep", "copy/deep/tea", "in", "in/deep", "in/deep/tea", "too"]
    assert (listed, kept, times) == (["copy", "moved", "too"], "green", [True, True])
    assert told == [
        *["OSError"] * 3, "NotADirectoryError", "IsADirectoryError", *["FileNotFoundError"] * 5,
    ]  # fmt: skip


async def test_c_libraries_that_are_loaded_can_be_called_and_no_others(tenant: Any) -> None:
    """`ctypes` is no boundary; but it loads nothing, and C cannot call back, since that takes memory to execute."""
    source = """
    import ctypes, ctypes.util
    def main():
        told = [ctypes.CDLL(None).abs(-3), ctypes.util.find_library("c")]
        for way in (lambda: ctypes.CDLL("libnothing.so"), lambda: ctypes.CFUNCTYPE(None)(print)):
            try:
                way()
            except Exception as error:
                told.append(type(error).__name__)
        return told
    """
    assert await tenant.do(source) == [3, None, "OSError", "MemoryError"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at what a sandbox has mapped")
async def test_the_tls_library_is_not_even_mapped(tenant: Any) -> None:
    """asyncio would import it, and each sandbox would carry it about."""
    assert await tenant.do("import asyncio.sslproto\ndef main(): return asyncio.sslproto.ssl") is None
    maps = Path(f"/proc/{tenant.sandbox.pid}/maps").read_text()  # noqa: ASYNC240
    assert "libssl" not in maps
    assert "libpython" in maps or "python3" in maps


async def test_no_path_of_the_host_is_told_by_anything_inside(boot: Boot) -> None:
    """In whatever object the collector knows or leads to: attributes, code, traces, settings. The fork shares them."""
    source = """
    import gc, importlib, sys, types
    def main(reversed_parts):
        parts = [part[::-1] for part in reversed_parts]
        for name in ("csv", "xml.dom.minidom", "runpy", "sysconfig", "site", "decimal", "unittest.mock"):
            importlib.import_module(name)
        sys.modules["sysconfig"].get_config_vars()
        gc.unfreeze()
        todo, seen, found = [*gc.get_objects(), sys.modules], set(), {}
        while todo:
            subject = todo.pop()
            if isinstance(subject, types.CodeType):
                inner = [subject.co_filename, *subject.co_consts]
            else:
                inner = gc.get_referents(subject)
                if isinstance(subject, types.FunctionType):
                    inner.append(subject.__code__)
            for one in inner:
                if isinstance(one, (int, float)) or id(one) in seen:
                    continue
                seen.add(id(one))
                if not isinstance(one, (str, bytes)):
                    todo.append(one)
                elif not any(one is part for part in parts):
                    text = one if isinstance(one, str) else one.decode("latin-1")
                    for part in parts:
                        if part in text:
                            found.setdefault(part, f"{text[:200]!r} in {type(subject).__name__} {repr(subject)[:200]}")
        return found
    """
    places = {str(Path(module).parent.parent) for module in (importlib.util.__file__, pytest.__file__)}
    places |= {prefix for prefix in (sys.prefix, sys.base_prefix) if prefix not in {"/usr", "/usr/local"}}
    places.add(str(README.parent))
    sight = "<library>/json/decoder.py"
    tenant = await boot(limits=Limits(memory_bytes=1 << 30))
    found = await tenant.do(source, [part[::-1] for part in (*places, sight)])
    assert found.pop(sight)
    assert found == {}


async def test_the_hash_seed_is_its_zygotes(boot: Boot, tenant: Any, open_spawner: Any) -> None:
    """Siblings agree on it, as the README says; another zygote has another, and nobody has set one."""
    source = "import os\ndef main(): return [hash('a'), hash(b'b'), os.environ.get('PYTHONHASHSEED')]"
    sibling = await boot()
    ours = await tenant.do(source)
    assert await sibling.do(source) == ours
    assert ours[2] is None
    async with open_spawner() as other:
        stranger = await boot(spawner=other)
        assert (await stranger.do(source))[:2] != ours[:2]


FOLDERS = {
    "": "cloister cloister.ipc cloister.sandbox msgpack msgpack._cmsgpack msgpack.exceptions"
    " msgpack.ext workers workers.workflows",
    "cloister.ipc": "answer answering capabilities codec connection errors exports failures messages packer peer stubs"
    " values walk zmtp",
    "cloister.sandbox": "exits guest lockdown zygote",
    "cloister.sandbox.guest": "archive crossing disguise entrypoints failure files heap importer journal library loop"
    " main mappings moments native outcomes output patience questions reading rehearsal resources scope sqlite"
    " steps values wire worker workers",
    "cloister.sandbox.guest.workers": "workflows",
    "cloister.sandbox.lockdown": "identity jail kernel landlock limits namespaces seccomp sequence syscalls",
}
"""What the guest imports for itself: the modules of each folder."""
GUEST = sorted(f"{folder}.{name}".strip(".") for folder, names in FOLDERS.items() for name in names.split())
MOST_LINES = 7884
MOST_MODULES = 320


async def test_what_the_guest_imports_for_itself_is_bounded(tenant: Any) -> None:
    """Exactly these modules of ours, and no more of others than it takes to have most of them at hand."""
    source = """
    import sys
    def main(): return list(sys.modules)
    """
    found = await tenant.do(source)
    assert sorted(name for name in found if name.partition(".")[0] in {"cloister", "msgpack", "workers"}) == GUEST
    assert len(found) <= MOST_MODULES
    root = Path(__file__).parent.parent.parent
    ours = [root / f"{name.removeprefix('cloister.').replace('.', '/')}.py" for name in GUEST]
    assert sum(len(file.read_text().splitlines()) for file in ours if file.is_file()) <= MOST_LINES


@pytest.mark.parametrize(
    "name",
    ["test.support", "zmq", "psutil", "cloister.engine", "cloister.loader",
     "cloister.sandbox.spawner", "cloister.ipc.sockets", "cloister.ipc.router"],
)  # fmt: skip
async def test_what_makes_no_sense_inside_is_not_there(tenant: Any, name: str) -> None:
    """Nor is the host's half of this package, nor its dependencies."""
    with pytest.raises(RemoteError, match=r"^(ModuleNotFoundError|ImportError): "):
        await tenant.do(f"import {name}\ndef main(): pass")


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
        ("import numpy", r".*'numpy' in a sandbox: .* \(cloister bundle\), or from the host: preload=\('numpy',\)$"),
        ("import importlib.util as u; u.find_spec('numpy') or 1 / 0", "ZeroDivisionError: division by zero"),
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
        ("unsendable", None, r"CodecError: <class 'object'> cannot be sent; send plain values, at value\['a'\]\[1\]$"),
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
        def unsendable(self): return {"a": [1, object()]}
        def huge(self): return bytes(17 << 20)
    class Other(Default): pass
    class Helper: pass
    """
    tenant = await boot(source)
    with pytest.raises(RemoteError, match=f"^{words}"):
        await tenant.invoke(method, name=name)
    assert await tenant.invoke("get") == 1
    assert await tenant.invoke("get", name="Other") == 1


def test_links_that_lead_nowhere_stop_no_zygote(tmp_path: Path) -> None:
    """Nor those that lead round in a circle; a link to a file is that file, and one to a folder is not followed."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file.py").touch()
    for name, to in ("circle", "circle"), ("nowhere", "none"), ("through", "link.py/x"), ("link.py", "below/file.py"):
        (tmp_path / name).symlink_to(to)
    (tmp_path / "folder").symlink_to("below")
    found = [parts for parts, _ in archive._files(tmp_path, ("top",), lambda _: True)]
    assert found == [("top", "below", "file.py"), ("top", "link.py")]
    assert list(archive._files(tmp_path / "none", (), lambda _: True)) == []
