"""The command line over a database: what an operator sees, and exit codes that say how it went."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.loader import cli


class Echo(WorkflowEntrypoint):
    """Returns its params."""

    async def run(self, event: Any, step: Any) -> Any:
        """The workflow."""
        return await step.do("echo", lambda: event.payload)


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Run it; the exit code."""
    monkeypatch.setattr(sys, "argv", ["cloister", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


async def test_an_operator_looks_after_a_database(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a live engine all but vacuum, which says who has it; afterwards that as well."""
    async with Engine(path) as engine:
        await (await engine.workflow("w", Echo).create(id="x", scope="t", params={"a": 1})).result()
        assert command(monkeypatch, "db", "info", path, "--json") == 0
        assert json.loads(capsys.readouterr().out)["workflows"] == {"w": {"complete": 1}}
        assert command(monkeypatch, "db", "info", path) == 0
        assert "complete" in capsys.readouterr().out
        assert command(monkeypatch, "db", "export", path, "w", "x", "--scope", "t") == 0
        exported = json.loads(capsys.readouterr().out)
        assert (exported["output"], exported["steps"][0]["value"]) == ({"a": 1}, {"a": 1})
        assert command(monkeypatch, "db", "backup", path, path.with_name("copy.db")) == 0
        assert command(monkeypatch, "db", "vacuum", path) == 1
        assert "in use by the engine of process" in capsys.readouterr().err
    assert command(monkeypatch, "db", "vacuum", path) == 0
    assert command(monkeypatch, "db", "info", path.with_name("copy.db")) == 0


async def test_what_cannot_be_done_is_said_in_a_line_with_an_exit_code(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, and no file that was not there before."""
    path.write_text("no database, but long enough to be taken for one " * 100)  # noqa: ASYNC240
    attempts = (["info", path], ["vacuum", path], ["backup", path, path.with_name("b.db")], ["export", path, "w", "x"])
    for words in attempts:
        assert command(monkeypatch, "db", *words) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"cloister db {words[0]}: ")
        assert "Traceback" not in error
    assert command(monkeypatch, "db", "info", path.with_name("none.db")) == 1
    assert [entry.name for entry in sorted(path.parent.iterdir()) if not entry.name.endswith(".lock")] == ["app.db"]


async def _one_instance(path: Path, scope: str = "") -> None:
    async with Engine(path) as engine:
        await (await engine.workflow("w", Echo).create(id="x", scope=scope)).result()


def _empty(path: Path) -> None:
    path.touch()


def _newer(path: Path) -> None:
    _set_version(path, 99)


def _older(path: Path) -> None:
    _set_version(path, 3)


def _set_version(path: Path, version: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:8192] = bytes(8092)
    path.write_bytes(data)


ALL = ("info", "vacuum", "backup", "export")


@pytest.mark.parametrize(
    ("make", "verbs", "words"),
    [(_empty, ALL, "is empty: no engine has written to it yet"), (_newer, ALL, "this cloister knows versions up to"),
     (_older, ("vacuum", "export"), "an engine that opens it brings it to"),
     (_damaged, ("info", "vacuum", "export"), "is damaged")],
)  # fmt: skip
def test_a_file_that_is_not_fit_for_it_is_named_and_left_as_it_is(
    path: Path,
    make: Callable[[Path], None],
    verbs: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is asked."""
    asyncio.run(_one_instance(path))
    if make is _empty:
        path.unlink()
    make(path)
    before = path.read_bytes()
    more: dict[str, list[object]] = {"backup": [path.with_name("b.db")], "export": ["w", "x"]}
    for verb in verbs:
        assert command(monkeypatch, "db", verb, path, *more.get(verb, [])) == 1
        assert words in capsys.readouterr().err
        assert path.read_bytes() == before
    assert not path.with_name("b.db").exists()


def test_an_instance_of_another_scope_is_looked_for_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgets to say whose it is, is told how."""
    asyncio.run(_one_instance(path, scope="t"))
    assert command(monkeypatch, "db", "export", path, "w", "x") == 1
    assert "no instance 'x' in scope ''; --scope names another" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(path: Path) -> None:
    """Root, who may write everything, gives that up first; and whoever stops listening hears no complaint."""
    asyncio.run(_one_instance(path))
    program = (
        "import ctypes, sys\n"
        "from cloister.loader import cli\n"
        "if sys.argv.pop(1) == 'no':\n"
        "    none = (ctypes.c_uint32 * 6)()\n"
        "    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), none) == 0\n"
        "cli.main()\n"
    )
    words = [sys.executable, "-c", program]
    shell = f"{shlex.join([*words, 'yes', 'db', 'export', str(path), 'w', 'x'])} | true"
    assert subprocess.run(shell, shell=True, capture_output=True, text=True, check=True).stderr == ""
    path.parent.chmod(0o555)
    try:
        done = subprocess.run([*words, "no", "db", "info", path], capture_output=True, text=True, check=False)
    finally:
        path.parent.chmod(0o755)
    assert (done.returncode, done.stdout) == (1, "")
    assert "its folder writable" in done.stderr


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_whoever_has_read_enough_of_the_doctor_hears_no_complaint(
    more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `cloister doctor | head -1`: the exit code is about the machine, not about the pipe."""
    told, said = os.pipe()
    os.close(told)
    with contextlib.suppress(BrokenPipeError), os.fdopen(said, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert command(monkeypatch, "doctor", *more) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [0, 130])
def test_the_demo_ends_with_its_own_exit_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else is done after it."""
    monkeypatch.setattr("cloister.loader.demo.__main__.main", lambda: code)
    assert command(monkeypatch, "demo") == code


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """That of the package that is installed."""
    assert command(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"cloister {importlib.metadata.version('cloister')}\n"
