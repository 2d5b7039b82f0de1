"""Programs as their authors have them become workers: folders, wheels, packages. What cannot is refused, and why."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import CannotBundle, Data, Loader, WorkerCode
from cloister.loader.bundle import check as checking
from cloister.loader.bundle import packages, project

HELLO = """
from workers import Response, WorkerEntrypoint
import helper
class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(helper.greet())
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Files of a project, by their names."""

    def files(**contents: str) -> Path:
        folder = tmp_path / "project"
        for name, content in contents.items():
            path = folder / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content))
        return folder

    return files


def wheel(
    folder: Path, name: str, files: dict[str, str], needs: tuple[str, ...] = (), tag: str = "py3-none-any"
) -> Path:
    """A wheel, written by hand."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-{tag}.whl"
    about = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + "".join(f"Requires-Dist: {n}\n" for n in needs)
    pure = "true" if tag.endswith("any") else "false"
    kind = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    inside = {**files, f"{about}/METADATA": metadata, f"{about}/WHEEL": kind}
    record = "".join(f"{file},,\n" for file in [*inside, f"{about}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**inside, f"{about}/RECORD": record}.items():
            archive.writestr(file, content)
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A place where packages are found without a network."""
    return tmp_path / "shelf"


def found_in(shelf: Path) -> tuple[str, ...]:
    return ("--no-index", "--find-links", str(shelf))


async def test_a_folder_is_a_worker(write: Write, loader: Loader) -> None:
    """What wrangler's file says is understood, comments and all; the main module's folder is where imports begin."""
    folder = write(
        src__entry_dot_py=HELLO,
        src__helper_dot_py="import pkgutil\ndef greet(): return pkgutil.get_data(__name__, 'words.txt').decode()",
        src__words_dot_txt="hello",
        src____pycache____x_dot_pyc="x",
        wrangler_dot_jsonc="""
        // a comment, "with a string"
        {"main": "src/entry.py", /* one more */ "compatibility_date": "2025-11-02",
         "compatibility_flags": ["python_workers", "a//b",], "name": "x",
         "vars": {"A": "theirs", "B": {"c": 1}}}
        """,
        pyproject_dot_toml='[project]\nname = "x"\ndependencies = ["webtypy>=0.1.7", "workers-py"]',
    )
    code = WorkerCode.from_folder(folder, env={"A": 1})
    assert code.main_module == "entry.py"
    assert set(code.modules) == {"entry.py", "helper.py", "words.txt"}
    assert code.modules["words.txt"] == Data(b"hello")
    assert (code.compatibility_date, code.compatibility_flags) == ("2025-11-02", ("python_workers", "a//b"))
    assert (code.env, code.preload) == ({"A": 1, "B": {"c": 1}}, ())
    response = await loader.get("folder", lambda: code).get_entrypoint().fetch("http://a.b/")
    assert await response.text() == "hello"


def test_what_is_said_here_holds(write: Write) -> None:
    """Over what the files say; a toml file is understood too."""
    folder = write(a_dot_py="", b_dot_py="", wrangler_dot_toml='main = "a.py"\ncompatibility_date = "2025-01-01"\n')
    assert WorkerCode.from_folder(folder).main_module == "a.py"
    code = WorkerCode.from_folder(folder, main="b.py", compatibility_date="2026-01-01")
    assert (code.main_module, code.compatibility_date) == ("b.py", "2026-01-01")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"x_dot_txt": ""}, "no main module"),
        ({"main_dot_py": "", "wrangler_dot_json": '{"main": "index.js"}'}, "'index.js' is no Python file"),
        ({"main_dot_py": "", "wrangler_dot_json": '{"main": "../main.py"}'}, "is no Python file in"),
        ({"main_dot_py": "", "wrangler_dot_json": "{"}, "wrangler.json cannot be read"),
        ({"main_dot_py": "", "pyproject_dot_toml": "["}, "pyproject.toml cannot be read"),
        ({"main_dot_py": "", "fast_dot_so": ""}, "fast.so is not written in Python"),
        ({"main_dot_py": "", "requirements_dot_txt": "-e ."}, "names and versions, and nothing else"),
        ({"main_dot_py": "", "requirements_dot_txt": "x @ https://a.b/c.whl"}, "names and versions, and nothing else"),
        ({"main_dot_py": "", "requirements_dot_txt": "??"}, "is no requirement"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(write: Write, files: dict[str, str], words: str) -> None:
    """Before anything is done."""
    with pytest.raises(CannotBundle, match=words):
        WorkerCode.from_folder(write(**files))


def test_a_link_does_not_lead_out_of_a_folder(write: Write, tmp_path: Path) -> None:
    """What lies elsewhere on the host is not the tenant's to take."""
    folder = write(main_dot_py="")
    (tmp_path / "secret").write_text("secret")
    (folder / "stolen.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(CannotBundle, match="leads out of the folder"):
        WorkerCode.from_folder(folder)


async def test_packages_come_along(write: Write, shelf: Path, loader: Loader) -> None:
    """What is needed, and what that needs; the tenant's own files come before theirs, and metadata can be read."""
    wheel(shelf, "outer", {"outer/__init__.py": "import inner\nname = inner.name", "outer/t.txt": "x"}, ("inner>=1",))
    wheel(shelf, "inner", {"inner.py": "name = 'from inner'", "helper.py": "never"})
    folder = write(
        main_dot_py=HELLO,
        helper_dot_py="""
        import importlib.metadata, importlib.resources, outer
        def greet():
            text = importlib.resources.files("outer").joinpath("t.txt").read_text()
            return f"{outer.name} {importlib.metadata.version('outer')} {text}"
        """,
        requirements_dot_txt="# what it needs\nouter==1.0  # so far\n\n",
    )
    code = WorkerCode.from_folder(folder, index=found_in(shelf))
    assert {"inner.py", "outer/__init__.py", "outer/t.txt", "outer-1.0.dist-info/METADATA"} < set(code.modules)
    assert "def greet" in str(code.modules["helper.py"])
    response = await loader.get("packages", lambda: code).get_entrypoint().fetch("http://a.b/")
    assert await response.text() == "from inner 1.0 x"


def test_what_is_not_python_alone_is_the_hosts(write: Write, shelf: Path) -> None:
    """Each such package is named, with what the host has to do; what its profile has is left to it."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-none-any"
    wheel(shelf, "native", {"native/__init__.py": "", "native/_fast.so": "x"}, tag=tag)
    wheel(shelf, "psutil", {"psutil/__init__.py": "", "psutil/_x.so": "x"}, tag=tag)
    wheel(shelf, "pure", {"pure.py": ""}, ("native", "psutil"))
    folder = write(main_dot_py="", requirements_dot_txt="pure\npsutil")
    with pytest.raises(CannotBundle) as refused:
        WorkerCode.from_folder(folder, index=found_in(shelf))
    assert len(refused.value.reasons) == 2
    assert "native 1.0 is not written in Python alone (_fast.so)" in refused.value.reasons[0]
    assert "preload=('native',)" in refused.value.reasons[0]
    with pytest.raises(CannotBundle, match=r"^native 1\.0"):
        WorkerCode.from_folder(folder, preload=("psutil",), index=found_in(shelf))


def test_a_profile_has_what_its_packages_need(shelf: Path) -> None:
    """The host has installed them together, and a second copy would not fit."""
    assert packages.provided(()) == set()
    there = packages.provided(("requests",))
    assert {"requests", "urllib3", "idna", "certifi"} <= there
    assert "pytest" not in there


def test_what_cannot_be_resolved_is_refused_with_what_pip_says(write: Write, shelf: Path) -> None:
    """Nothing is built from source: that would run it."""
    shelf.mkdir()
    folder = write(main_dot_py="", requirements_dot_txt="nowhere>=3")
    with pytest.raises(CannotBundle, match=r"nowhere>=3 cannot be resolved to wheels: .*nowhere"):
        WorkerCode.from_folder(folder, index=found_in(shelf))
    assert WorkerCode.from_folder(folder, resolve=False).main_module == "main.py"


async def test_a_wheel_is_a_worker(shelf: Path, loader: Loader) -> None:
    """Its main module is said; what it needs comes along."""
    main = """
from workers import WorkerEntrypoint
from . import names
class Default(WorkerEntrypoint):
    def hello(self):
        import inner
        return names.name + inner.name
"""
    wheel(shelf, "inner", {"inner.py": "name = 'inner'"})
    file = wheel(shelf, "shop", {"shop/worker.py": main, "shop/names.py": "name = 'shop '", "shop/__init__.py": ""},
                 ("inner", "never ; extra == 'more'"))  # fmt: skip
    code = WorkerCode.from_wheel(file, main="shop.worker", index=found_in(shelf))
    assert code.main_module == "shop/worker.py"
    assert await loader.get("wheel", lambda: code).get_entrypoint().hello() == "shop inner"
    with pytest.raises(CannotBundle, match=r"no module 'shop\.other'"):
        WorkerCode.from_wheel(file, main="shop.other", index=found_in(shelf))
    (shelf / "x.whl").write_text("x")
    with pytest.raises(CannotBundle, match="is no wheel"):
        WorkerCode.from_wheel(shelf / "x.whl", main="x")


def cloister(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cloister.loader.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_one_file(write: Write, tmp_path: Path) -> None:
    """Which the host reads, and gives its bindings to."""
    folder = write(main_dot_py=HELLO, helper_dot_py="def greet(): return 'x'")
    file = tmp_path / "worker.bundle"
    done = cloister("bundle", folder, "-o", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("main.py: 2 modules")
    code = WorkerCode.from_bundle(file, env={"A": 1})
    assert code.digest == WorkerCode.from_folder(folder).digest
    assert code.env == {"A": 1}
    file.write_bytes(b"x")
    with pytest.raises(CannotBundle, match="is no bundle"):
        WorkerCode.from_bundle(file)
    done = cloister("bundle", tmp_path / "nothing")
    assert done.returncode == 1
    assert "is no folder" in done.stderr


# What would not run


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import ssl", "there is no ssl in a sandbox: there is no network"),
        ("import curses.panel", "there is no curses.panel in a sandbox"),
        ("from js import WebAssembly", "no js.WebAssembly in a sandbox: there is no WebAssembly here"),
        ("import js; js.eval('1')", "no js.eval in a sandbox: there is no JavaScript"),
        ("import numpy", "numpy is not among the program's modules"),
        ("from src.x import y", "import x: the main module's folder is where imports begin"),
        ("from workers import Nothing", "workers has no Nothing"),
        ("import subprocess; subprocess.run([])", "no process can be started"),
        ("import socket; socket.socket()", "no socket can be opened"),
        ("import_from_javascript('cloudflare:sockets')", "there are no modules of JavaScript"),
        ("x = (", "it does not compile"),
    ],
)
def test_what_would_not_run_is_found(write: Write, line: str, words: str) -> None:
    """With its line, and what to do instead."""
    folder = write(main_dot_py=f"{line}\nclass Default(WorkerEntrypoint): ...\n")
    found = checking.check(folder / "main.py")
    assert [(one.level, one.line) for one in found] == [("error", 1)]
    assert words in str(found[0])
    assert str(found[0]).startswith("main.py:1: error: ")


def test_what_would_run_is_not_complained_of(write: Write) -> None:
    """The standard library, the SDK and its shim, the program's own modules, what it needs, what the profile has."""
    folder = write(
        main_dot_py="""
        import asyncio, json, sqlite3, xml.etree.ElementTree, asgi, jinja2, numpy, helper
        from js import JSON, Response, fetch
        from pyodide.ffi import to_js
        from workers import DurableObject, FormData, WorkerEntrypoint, env, wsgi
        from workers.workflows import NonRetryableError
        from . import helper
        class Default(WorkerEntrypoint): ...
        """,
        helper_dot_py="x = 1",
        requirements_dot_txt="Jinja2>=3",
    )
    assert checking.check(folder, ("numpy.linalg",)) == []
    for main in ("Default = wsgi.entrypoint(app)", "async def on_fetch(): ...", "from shop import Default"):
        assert [
            one for one in checking.check(write(main_dot_py=main, shop_dot_py="")) if "entrypoint:" in str(one)
        ] == []
    assert "no entrypoint" in str(checking.check(write(main_dot_py="x = 1"))[0])


def test_the_command_says_what_would_not_run(write: Write) -> None:
    """And its exit code whether something was found; what might not is a warning."""
    folder = write(main_dot_py="class Default(A):\n    x = open('a')\n")
    done = cloister("check", folder)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "main.py:2: warning: no file can be opened in a sandbox, but for what the worker brings along, and below /tmp",
        "nothing was found that would not run",
    ]
    (folder / "main.py").write_text("import ssl\nclass Default(A): ...")
    done = cloister("check", folder)
    assert done.returncode == 1
    assert "1 of it would not run" in done.stdout
    assert cloister("check", folder / "none.py").returncode == 2
    bundle = folder.parent / "made.bundle"
    assert "1 module," in cloister("bundle", folder, "-o", bundle).stdout
    done = cloister("check", bundle)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no source of Python (.py): name the file, or the folder, that it was made from" in done.stderr


def test_the_name_of_a_file_moves_no_cursor(write: Write) -> None:
    """Whoever looks at a tenant's folder has a terminal."""
    folder = write(main_dot_py="class Default(A): ...")
    (folder / "odd\x1b[2J\nmain.py:1: error: forged.py").write_text("import ssl")
    lines = cloister("check", folder).stdout.splitlines()
    assert [line.partition(": error: ")[0] for line in lines[:2]] == ["odd\\x1b[2J", "    | main.py:1"]


def test_comments_are_told_from_strings() -> None:
    """Also where one looks like the other."""
    told = '{"a": "//x, ]", /* "b" */ "c": [1, // no\n ],}'
    assert json.loads(project.plain(told)) == {"a": "//x, ]", "c": [1]}


def test_names_of_distributions_have_one_form() -> None:
    """Whatever they are written as."""
    found: Any = {packages.canonical(name) for name in ("Foo.Bar", "foo_bar", "FOO--bar")}
    assert found == {"foo-bar"}
