"""Arrows point down only, one file knows each outside thing, and what runs in a sandbox keeps to its budget."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT: dict[str, set[str]] = {
    "ipc": set(),
    "sandbox": {"ipc"},
    "engine": {"ipc"},
    "loader": {"ipc", "sandbox", "engine"},
}
"""Folder: the layers below it."""
ENGINE_KNOWS_OF_IPC = {"cloister.ipc", "cloister.ipc.codec", "cloister.ipc.errors", "cloister.ipc.values"}
GUEST_ROOMS = ("sandbox/guest", "sandbox/lockdown", "sandbox/zygote.py")
GUEST_MAY_IMPORT = (
    "cloister.sandbox.guest", "cloister.sandbox.lockdown", "cloister.sandbox.errors", "cloister.sandbox.exits",
    "cloister.ipc",
)  # fmt: skip
MOVES_BYTES = {"cloister.ipc.link", "cloister.ipc.pipe", "cloister.ipc.router", "cloister.ipc.sockets"}
FORKS = {"sandbox/zygote.py", "sandbox/lockdown/namespaces.py"}
SQL = re.compile(
    r"\b(select\s.*\sfrom|insert\s+(or\s+\w+\s+)?into|update\s+\w+\s+set|delete\s+from|replace\s+into"
    r"|(create|drop|alter)\s+(table|index|view|trigger))\b",
    re.IGNORECASE | re.DOTALL,
)
PRAGMA = re.compile(r"\bpragma\s+\w+", re.IGNORECASE)


def sources(*folders: str) -> Iterator[Path]:
    """Our own: the tenants' repositories in the demo are data, and the peers of the comparison are others'."""
    for folder in folders:
        place = ROOT / folder
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            if {"repositories.d", "peers"}.isdisjoint(file.relative_to(ROOT).parts):
                yield file


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("cloister", *parts)).removesuffix(".__init__")


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split(".")[1:])
    return place.with_suffix(".py").is_file() or place.is_dir()


@functools.cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """All of some source, which is parsed once for all tests."""
    return tuple(ast.walk(ast.parse(source)))


def imports(source: str, module: str = "cloister.loader.x", *, package: bool = False) -> Iterator[tuple[str, int]]:
    """Every module that some source imports, wherever in it, with the level of a relative import."""
    for node in nodes(source):
        match node:
            case ast.Import(names):
                yield from ((alias.name, 0) for alias in names)
            case ast.ImportFrom(base, names, level):
                stem = base or ""
                if level:
                    parent = module.split(".")[: len(module.split(".")) - level + package]
                    stem = ".".join([*parent, *([base] if base else [])])
                for alias in names:
                    inner = f"{stem}.{alias.name}"
                    yield (inner if stem.startswith("cloister") and is_module(inner) else stem), level or 0


def imported_by(file: Path) -> list[tuple[str, int]]:
    return list(imports(file.read_text(), module_name(file), package=file.name == "__init__.py"))


def layer(name: str) -> str | None:
    """The folder that an imported module belongs to."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] if top == "cloister" else None


def bare(name: str) -> bool:
    """Whether it is one of our folders by its own name: it would be a second copy of the module."""
    return name.partition(".")[0] in MAY_IMPORT


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_each_folder_imports_only_the_layers_below_it(folder: str) -> None:
    """An arrow that points up is a design change, not a detail."""
    for file in sources(folder):
        for name, _ in imported_by(file):
            found = layer(name)
            assert found is None or found in MAY_IMPORT[folder] | {folder}, f"{file.relative_to(ROOT)} imports {name}"


def test_no_file_imports_a_folder_by_its_bare_name() -> None:
    """It works from the root of the repository, and makes two of every class."""
    for file in sources(*MAY_IMPORT, "tests", "benchmarks"):
        for name, level in imported_by(file):
            assert level or not bare(name), f"{file.relative_to(ROOT)} imports {name}"


def test_relative_imports_stay_in_their_folder() -> None:
    """Across folders the full name says that a border is crossed."""
    for file in sources(*MAY_IMPORT):
        for name, level in imported_by(file):
            assert not level or layer(name) == file.relative_to(ROOT).parts[0], f"{file.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize(
    "source",
    ["import loader", "import loader.cache as c", "from engine import Engine", "def f():\n    import ipc.values"],
)
def test_the_test_itself_sees_bare_imports(source: str) -> None:
    """A planted one is found, wherever it stands."""
    assert any(bare(name) for name, _ in imports(source))


def test_the_test_itself_sees_arrows_that_point_up() -> None:
    """Absolute, relative, and inside of a function."""
    for source in ("from cloister.loader import Loader", "import cloister.loader.cache", "from ...loader import cache"):
        found = {layer(name) for name, _ in imports(source, "cloister.sandbox.guest.x")}
        assert found == {"loader"}, source


def test_the_engine_knows_of_the_wire_only_how_values_are_written() -> None:
    """Payloads are opaque to it: no connection, no peer, no process."""
    for file in sources("engine"):
        for name, _ in imported_by(file):
            if layer(name) == "ipc":
                assert name in ENGINE_KNOWS_OF_IPC, f"{file.relative_to(ROOT)} imports {name}"


def test_what_runs_in_a_sandbox_keeps_to_its_budget() -> None:
    """The standard library, msgpack, the pure half of ipc, and its own rooms: so much is mapped into each sandbox."""
    for file in sources(*GUEST_ROOMS):
        for name, _ in imported_by(file):
            top = name.partition(".")[0]
            allowed = top in sys.stdlib_module_names or top == "msgpack" or name.startswith(GUEST_MAY_IMPORT)
            allowed |= top == "cryptography" and file.name == "ciphers.py"  # for tenants whose profile has it
            assert allowed, f"{file.relative_to(ROOT)} imports {name}"
            assert name not in MOVES_BYTES, f"{file.relative_to(ROOT)} imports {name}"
            if top == "cloister":
                message = f"{file.relative_to(ROOT)} imports {name}, whose __init__ does not exist inside"
                assert name not in {"cloister", "cloister.ipc", "cloister.sandbox"}, message


def test_the_pure_half_of_ipc_is_pure() -> None:
    """Whatever a guest imports from it leads to the standard library, to msgpack, and to itself."""
    for file in sources("ipc"):
        if f"cloister.ipc.{file.stem}" in MOVES_BYTES:
            continue
        for name, _ in imported_by(file):
            top = name.partition(".")[0]
            assert top in {*sys.stdlib_module_names, "msgpack"} or layer(name) == "ipc", f"{file.name} imports {name}"
            assert name not in MOVES_BYTES, f"{file.name} imports {name}"


def test_the_bootstrap_needs_nothing() -> None:
    """Its text runs in a bare interpreter; what it imports of ours it has said the place of before."""
    found = {name for name, _ in imported_by(ROOT / "sandbox/bootstrap.py")}
    assert {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "cloister.sandbox.guest.native",
        "cloister.sandbox.zygote",
    }


def test_what_runs_tenants_sql_knows_nothing_of_the_host() -> None:
    """It is a process of its own: the standard library, msgpack, and its own room."""
    for file in sources("loader/bindings/sql"):
        for name, _ in imported_by(file):
            own = name.startswith("cloister.loader.bindings.sql.")
            assert own or name.partition(".")[0] in {*sys.stdlib_module_names, "msgpack"}, f"{file.name} imports {name}"


def test_one_file_imports_zeromq() -> None:
    """The transport over libzmq, which is imported only by whoever asks for it."""
    users = {file for file in sources(*MAY_IMPORT) for name, _ in imported_by(file) if name.partition(".")[0] == "zmq"}
    assert users == {ROOT / "ipc/router.py"}


def texts(file: Path) -> Iterator[str]:
    """The string constants of a file that are not documentation."""
    tree = nodes(file.read_text())
    documentation = {id(node.value) for node in tree if isinstance(node, ast.Expr)}
    for node in tree:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_the_store_alone_holds_sql() -> None:
    """The store, beside the schema; how the file is opened is the database's business, and its log's
    how long that is. A guest's are another matter.
    Bindings have files of their own, with which the engine has nothing to do: each kind its module, opened in two. What
    an object stores it asks for as SQL, which a tenant may as well."""
    names = ("alarms", "bucket", "keys", "objects", "queues", "shelf", "uploads")
    bindings = {ROOT / f"loader/bindings/{name}.py" for name in names} | {
        ROOT / f"sandbox/guest/{name}.py" for name in ("entries", "storage")
    }
    opened = {ROOT / "loader/bindings/sql/server.py", ROOT / "loader/bindings/shelf.py"}
    files = [file for file in sources(*MAY_IMPORT) if file not in bindings | opened]
    holders = {file for file in files for text in texts(file) if SQL.search(text)}
    assert {ROOT / "engine/store/instances.py"} < holders <= set(ROOT.glob("engine/store/*.py"))
    settings = {ROOT / "engine/database.py", ROOT / "engine/log.py", ROOT / "sandbox/guest/sqlite.py"}
    assert {file for file in files for text in texts(file) if PRAGMA.search(text)} == settings
    scripts = {file.relative_to(ROOT).as_posix() for folder in MAY_IMPORT for file in (ROOT / folder).rglob("*.sql")}
    assert "engine/schema.sql" in scripts
    assert all(script.startswith("engine/") for script in scripts)


def test_two_files_fork() -> None:
    """The zygote, and the namespaces that a fork has to go through."""
    found = set()
    for file in sources(*MAY_IMPORT):
        for node in nodes(file.read_text()):
            match node:
                case ast.Attribute(ast.Name("os"), "fork" | "forkpty") | ast.ImportFrom("os", [ast.alias("fork")]):
                    found.add(file.relative_to(ROOT).as_posix())
    assert found == FORKS
